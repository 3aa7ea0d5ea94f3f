from __future__ import annotations

import time
from typing import Any

import pytest
import torch
import zoo
from torch import nn

import penstock
from penstock.errors import InvalidInput
from penstock.toolchain import inference as optimizing


class Branches(nn.Module):
    """A trace records only one of its branches."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x * 2
        return -x


class Slow(nn.Module):
    """Spends its time in Python, which a trace does not."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        time.sleep(0.002)
        return {"y": self.layer(x)}


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor, *, by: torch.Tensor) -> torch.Tensor:
        return x.mul_(by)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model", [zoo.MLP, zoo.HEADS, zoo.CNN, zoo.GRU, zoo.ENCODER, zoo.DIGITS], ids=lambda m: m.name)
def test_the_answers_stay_the_same_at_other_batch_sizes_and_values(model: zoo.TorchModel) -> None:
    optimized = penstock.optimize_for_inference(model.make(), model.example(3), compile=False)
    for rows in (1, 2, 5):
        inputs = model.inputs(rows, seed=rows)
        answer = model.named(optimized(*(torch.from_numpy(array) for array in inputs.values())))
        for name, right in model.expected(inputs).items():
            assert close(torch.from_numpy(answer[name]), torch.from_numpy(right)), (name, optimized.steps)


def test_faster_forms_are_kept_and_named() -> None:
    model = Slow()
    optimized = penstock.optimize_for_inference(model, torch.ones(2, 3), compile=False)
    assert optimized.steps == ("evaluation mode", "no gradients", "frozen trace")
    start = time.perf_counter()
    answer = optimized(torch.ones(2, 3))
    assert time.perf_counter() - start < 0.002
    assert close(answer["y"], model.layer(torch.ones(2, 3)))


def test_a_trace_that_would_lose_a_branch_is_skipped_with_the_reason() -> None:
    optimized = penstock.optimize_for_inference(Branches(), torch.ones(2, 3), compile=False)
    assert optimized.steps == ("evaluation mode", "no gradients")
    assert any(reason.startswith("frozen trace: its outputs depend on a branch") for reason in optimized.skipped)
    assert close(optimized(-torch.ones(2, 3)), torch.ones(2, 3))


def test_an_attempt_with_other_outputs_is_not_used_however_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    def zeros(module: nn.Module, _: Any) -> Any:
        return lambda x: {"y": torch.zeros_like(x)}

    monkeypatch.setattr(optimizing, "_ATTEMPTS", {"zeros": optimizing.Attempt(zeros)})
    optimized = penstock.optimize_for_inference(Slow(), torch.ones(2, 3))
    assert optimized.skipped == ("zeros: its outputs differ",)
    assert optimized(torch.ones(2, 3))["y"].any()


def test_forms_that_are_not_faster_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def slower(module: nn.Module, _: Any) -> Any:
        return lambda x: (time.sleep(0.005), module(x))[1]

    monkeypatch.setattr(optimizing, "_ATTEMPTS", {"slower": optimizing.Attempt(slower)})
    (skipped,) = penstock.optimize_for_inference(Slow(), torch.ones(2, 3)).skipped
    assert skipped.startswith("slower: it is not faster")


def test_the_model_and_the_example_are_not_changed() -> None:
    model, example = zoo.CNN.make().train().requires_grad_(True), zoo.CNN.example(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copies = [tensor.clone() for tensor in example]
    penstock.optimize_for_inference(model, example, compile=False)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(one, other) for one, other in zip(example, copies, strict=True))


def test_arguments_are_given_as_a_tensor_a_tuple_or_by_name() -> None:
    x = torch.full((2, 3), 2.0)
    optimized = penstock.optimize_for_inference(Scaled(), {"x": x, "by": torch.full((2, 3), 3.0)}, compile=False)
    assert close(optimized(x.clone(), by=torch.full((2, 3), 3.0)), torch.full((2, 3), 6.0))
    assert close(x, torch.full((2, 3), 2.0))


def test_it_runs_in_evaluation_and_inference_mode_and_stays_there() -> None:
    optimized = penstock.optimize_for_inference(
        nn.Sequential(nn.Dropout(0.9), nn.ReLU()), torch.ones(4, 4), compile=False
    )
    answer = optimized(torch.ones(4, 4))
    assert close(answer, torch.ones(4, 4))
    assert answer.is_inference()
    assert optimized.eval() is optimized
    with pytest.raises(RuntimeError, match="train the original model"):
        optimized.train()


def test_an_example_the_model_does_not_take_is_invalid_input() -> None:
    with pytest.raises(InvalidInput, match="example_input: the model does not run on it: "):
        penstock.optimize_for_inference(nn.Linear(3, 2), torch.ones(2, 4))


def test_without_an_example_only_exact_steps_are_taken() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
    with torch.no_grad():
        model(torch.randn(16, 3, 8, 8) * 3 + 1)  # statistics that matter
    fast = penstock.optimize_for_inference(model)
    assert fast.steps == ("evaluation mode", "no gradients", "norms folded")
    assert [line.split(":")[0] for line in fast.skipped] == ["channels last", "frozen trace", "compiled"]
    assert all("example_input" in line for line in fast.skipped)
    x = torch.randn(4, 3, 8, 8)
    assert torch.allclose(fast(x), model.eval()(x), atol=1e-5)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in fast.modules())


class _Noisy(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + torch.rand(4)


def test_without_an_example_a_model_that_folding_could_change_stays_as_it_is() -> None:
    noisy = penstock.optimize_for_inference(_Noisy())
    assert "norms folded" not in noisy.steps
    x = torch.zeros(2, 4)
    assert not torch.equal(noisy(x), noisy(x))
    hooked = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    hooked.register_forward_hook(lambda *_: torch.full((2, 4), 7.0))
    fast = penstock.optimize_for_inference(hooked)
    assert torch.equal(fast(x), torch.full((2, 4), 7.0))
    assert any("hooks" in line for line in fast.skipped)
