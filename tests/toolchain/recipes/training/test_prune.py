from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import torch
import trained_subjects as subjects
import zoo
from torch import Tensor, nn

from penstock.errors import InvalidInput
from penstock.tensors import Signature, TensorSpec
from penstock.toolchain.recipes.recipe import Recipe
from penstock.toolchain.recipes.subject import Materials, Subject
from penstock.toolchain.recipes.training.loop import why_different
from penstock.toolchain.recipes.training.options import Training
from penstock.toolchain.recipes.training.prune import Prune

TRAINING = Training(learning_rate=5e-3)


def pruned(technique: Prune, folder: Path, subject: Subject | None = None, **more: Any) -> Subject:
    return technique.apply(subject or subjects.trained(), replace(subjects.materials(folder), **more))


def module_of(subject: Subject) -> nn.Module:
    assert subject.module is not None
    return subject.module.module


def zeros(tensor: Tensor) -> float:
    return float((tensor == 0).float().mean())


def of_zoo(model: zoo.TorchModel) -> Subject:
    return subjects.subject(model.make(), model.signature, model.inputs(2))


def test_channels_are_removed_and_the_model_still_answers_rightly(tmp_path: Path) -> None:
    before = subjects.trained()
    after = pruned(Prune(finetune_epochs=6, training=TRAINING), tmp_path, before)
    module = module_of(after)
    shapes = [tuple(layer.weight.shape) for layer in module.modules() if isinstance(layer, nn.Linear)]
    assert shapes == [(16, 8), (16, 16), (4, 16)]
    assert subjects.accuracy(module) > subjects.accuracy(module_of(before)) - 0.02
    assert module_of(before).get_parameter("first.weight").shape == (32, 8)
    facts = after.facts["prune"]
    assert facts["before"]["parameters"] == 32 * 9 + 32 * 33 + 4 * 33
    assert facts["after"]["parameters"] == 16 * 9 + 16 * 17 + 4 * 17
    assert facts["before"]["multiply_adds"] == 32 * 8 + 32 * 32 + 4 * 32
    assert facts["kept"] == {"out": "its channels are outputs of the model"}
    assert "parameters (33%)" in after.notes[0]


def test_steps_with_training_between_them_reach_the_same_size(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    technique = Prune(steps=3, schedule="cubic", finetune_epochs=1, training=TRAINING)
    after = pruned(technique, tmp_path, progress=lambda name, share: seen.append((name, share)))
    assert module_of(after).get_parameter("first.weight").shape == (16, 8)
    assert len(after.facts["prune"]["training"]) == 3
    assert [share for _, share in seen] == sorted(share for _, share in seen)
    assert [*dict(seen)] == [f"prune, step {number} of 3" for number in (1, 2, 3)]


def test_layers_can_have_their_own_amounts(tmp_path: Path) -> None:
    technique = Prune(amount=0.5, layers={"first": 0.25}, finetune_epochs=0)
    assert module_of(pruned(technique, tmp_path)).get_parameter("second.weight").shape == (16, 24)
    technique = Prune(amount=0.5, ignore=("sec*",), finetune_epochs=0)
    assert module_of(pruned(technique, tmp_path)).get_parameter("second.weight").shape == (32, 16)
    technique = Prune(amount=0.4, round_to=8, finetune_epochs=0)
    assert module_of(pruned(technique, tmp_path)).get_parameter("second.weight").shape == (16, 16)
    technique = Prune(amount=0.99, finetune_epochs=0)  # a channel stays
    assert module_of(pruned(technique, tmp_path)).get_parameter("second.weight").shape == (1, 1)


def test_channels_of_all_layers_can_be_ranked_together(tmp_path: Path) -> None:
    subject = subjects.trained()
    with torch.no_grad():
        for name in ("first.weight", "first.bias"):
            module_of(subject).get_parameter(name)[:24] *= 1e-3
        module_of(subject).get_parameter("second.weight")[:, :24] *= 1e-3
    after = module_of(pruned(Prune(scope="global", finetune_epochs=0), tmp_path, subject))
    assert after.get_parameter("second.weight").shape == (24, 8)


def test_convolutions_with_norms_residuals_and_several_outputs_are_pruned(tmp_path: Path) -> None:
    for model in (zoo.CNN, zoo.DETECTOR):
        subject = of_zoo(model)
        made = Prune(finetune_epochs=0).apply(subject, Materials(tmp_path))
        assert made.module is not None
        assert made.module.architecture is None
        facts = made.facts["prune"]
        assert facts["after"]["multiply_adds"] < 0.6 * facts["before"]["multiply_adds"]
        backend = made.module.reference()
        try:
            for rows in (1, 3):
                outputs = backend.run(model.inputs(rows))
                assert {name: value.shape for name, value in outputs.items()} == {
                    name: value.shape for name, value in model.expected(model.inputs(rows)).items()
                }
        finally:
            backend.close()


def test_layers_that_are_added_to_each_other_lose_channels_together(tmp_path: Path) -> None:
    network = networks.ResNet18(width=8).eval()
    image = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    signature = zoo.RESNET.signature
    made = Prune(finetune_epochs=0).apply(subjects.subject(network, signature, {"image": image}), Materials(tmp_path))
    facts = made.facts["prune"]
    assert [*facts["kept"]] == ["out"]
    assert facts["after"]["parameters"] < 0.27 * facts["before"]["parameters"]
    assert module_of(made).get_parameter("stem.0.weight").shape == (4, 3, 7, 7)
    assert module_of(made).get_parameter("out.weight").shape == (10, 32)


def test_what_the_model_does_not_run_without_is_kept_with_the_reason(tmp_path: Path) -> None:
    """The attention of this encoder has its sizes in a `reshape`, and its states are an output."""
    made = Prune(amount=0.25, finetune_epochs=0).apply(of_zoo(zoo.ENCODER), Materials(tmp_path))
    kept = made.facts["prune"]["kept"]
    assert kept["layers.1.narrow"] == "its channels are outputs of the model"
    assert kept["layers.1.project"].startswith("without some of its channels the model does not run: RuntimeError")
    module = module_of(made)
    assert module.get_parameter("layers.0.wide.weight").shape == (24, 16)
    assert module.get_parameter("layers.0.project.weight").shape == (48, 16)


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pre = nn.Linear(4, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return self.out(self.encoder(self.pre(x), src_key_padding_mask=~keep).mean(dim=1))


def test_heads_of_an_attention_are_removed(tmp_path: Path) -> None:
    inputs = (TensorSpec("x", "FP32", (-1, -1, 4)), TensorSpec("keep", "BOOL", (-1, -1)))
    signature = Signature(inputs, (TensorSpec("output", "FP32", (-1, 3)),))
    random = np.random.default_rng(0)
    data = {"x": random.standard_normal((32, 5, 4)).astype(np.float32), "keep": np.ones((32, 5), bool)}
    subject = subjects.subject(Attentive(), signature, {name: array[:2] for name, array in data.items()})
    made = Prune(steps=2, finetune_epochs=1).apply(subject, Materials(tmp_path, data))
    module = module_of(made)
    for number in range(2):
        attention: Any = module.get_submodule(f"encoder.layers.{number}.self_attn")
        assert attention.num_heads == 2
        assert attention.in_proj_weight.shape == (24, 16)
        assert module.get_parameter(f"encoder.layers.{number}.linear1.weight").shape == (16, 16)
    assert made.facts["prune"]["after"]["parameters"] < 0.6 * made.facts["prune"]["before"]["parameters"]
    few = Prune(amount=0.1, ignore=("pre", "*linear*"), finetune_epochs=0)  # of four heads
    with pytest.raises(InvalidInput, match=r"prune: an amount of 0.1 removes no channel of any layer"):
        few.apply(subject, Materials(tmp_path, data))
    program = torch.export.export(module, tuple(torch.from_numpy(data[name][:2]) for name in ("x", "keep")))
    assert program is not None


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_single_weights_become_zero_and_stay_zero_in_training(tmp_path: Path, scope: Any) -> None:
    technique = Prune(how="unstructured", amount=0.8, scope=scope, steps=2, training=TRAINING)
    after = pruned(technique, tmp_path)
    weights = [one for name, one in module_of(after).named_parameters() if name.endswith("weight")]
    assert zeros(torch.cat([one.flatten() for one in weights])) == pytest.approx(0.8, abs=0.01)
    shares = [zeros(one) for one in weights]
    assert (max(shares) - min(shares) > 0.05) is (scope == "global")
    assert subjects.accuracy(module_of(after)) > 0.9
    assert "nothing becomes faster" in after.notes[0]
    facts = after.facts["prune"]
    assert facts["after"]["parameters"] == facts["before"]["parameters"]
    assert facts["after"]["compressed_bytes"] < 0.6 * facts["before"]["compressed_bytes"]
    assert set(module_of(after).state_dict()) == set(module_of(subjects.subject()).state_dict())


def test_single_weights_of_recurrent_layers_become_zero(tmp_path: Path) -> None:
    made = Prune(how="unstructured", layers={"gru": 0.3}, finetune_epochs=0).apply(of_zoo(zoo.GRU), Materials(tmp_path))
    module = module_of(made)
    assert zeros(module.get_parameter("gru.weight_hh_l0")) == pytest.approx(0.3, abs=0.01)
    assert zeros(module.get_parameter("out.weight")) == 0.5
    assert module(torch.zeros(2, 6, 4)).shape == (2, 6, 3)


def test_without_labels_the_model_repeats_its_answers(tmp_path: Path) -> None:
    before = subjects.trained()
    rough = pruned(Prune(finetune_epochs=0), tmp_path, before)
    tuned = pruned(Prune(finetune_epochs=12, training=TRAINING), tmp_path, before, labels=None)
    points = torch.from_numpy(subjects.rows(512, seed=1)[0])
    with torch.no_grad():
        expected, one, other = (module_of(subject)(points) for subject in (before, rough, tuned))
    assert (other - expected).abs().mean() < 0.5 * (one - expected).abs().mean()


@pytest.mark.parametrize(
    ("technique", "message"),
    [
        (Prune(amount=1.5), "prune: amount: Input should be less than 1"),
        (Prune(training=Training(learning_rate=-1)), "prune: training.learning_rate: Input should be greater than 0"),
        (Prune(layers={"conv1": 0.3}), "prune: layers: the model has no layer 'conv1'; it has first, second, out"),
        (Prune(ignore=("x*",)), "prune: ignore: the model has no layer 'x*'; it has first, second, out"),
        (Prune(ignore=("*",)), "prune: no layer can lose channels"),
        (
            Prune(round_to=32),
            "prune: no layer can lose channels (out: its channels are outputs of the model; second: it has",
        ),
        (Prune(how="unstructured", ignore=("*",)), "prune: the model has no weights to prune, or all layers are"),
        (Prune(training=Training(data="own_none:f")), "data: there is no module own_none"),
    ],
)
def test_a_recipe_that_does_not_fit_the_model_is_refused(tmp_path: Path, technique: Prune, message: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        pruned(technique, tmp_path)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (zoo.GRU, "structured pruning of recurrent layers is not supported"),
        (zoo.HEADS, r"no layer can lose channels \(body: its channels are outputs of the model\)"),
        (zoo.PAIR, "the model has no convolutions, linear layers or attention heads to prune"),
    ],
)
def test_a_model_without_anything_to_prune_is_refused_with_the_reason(
    tmp_path: Path, model: zoo.TorchModel, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        Prune(finetune_epochs=0).apply(of_zoo(model), Materials(tmp_path))


def test_a_model_without_a_module_is_refused(tmp_path: Path) -> None:
    bare = replace(subjects.subject(), module=None, onnx=tmp_path / "model.onnx")
    with pytest.raises(InvalidInput, match="recipe: prune changes the PyTorch module, and model has none here"):
        Prune().apply(bare, subjects.materials(tmp_path))


def test_a_recipe_from_a_file_gives_the_same_weights_again(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(
        '[[techniques]]\nkind = "prune"\namount = 0.25\nsteps = 2\nschedule = "geometric"\nfinetune_epochs = 1\n'
        'ignore = ["second"]\n[techniques.layers]\nfirst = 0.5\n'
        '[techniques.training]\ndata = "trained_subjects:batches"\nlearning_rate = 0.005\n'
    )
    recipe = Recipe.from_file(file)
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again.digest == recipe.digest
    made = [one.techniques[0].apply(subjects.trained(), Materials(tmp_path)) for one in (recipe, again)]
    first, second = (subject.facts["prune"]["training"][-1] for subject in made)
    assert first["weights_sha256"] == second["weights_sha256"]
    other = replace(subjects.materials(tmp_path), data=None, seed=4)
    third = recipe.techniques[0].apply(subjects.trained(), other).facts["prune"]["training"][-1]
    assert why_different(first, third) == "the seed was 0 and is 4"
    assert module_of(made[0]).get_parameter("second.weight").shape == (32, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"amount": 2}, "amount"),
        (
            {"training": {"optimiser": "sgd"}},
            "training.optimiser: there is no such setting; its settings are data, loss,",
        ),
        ({"training": {"optimizer": "lion"}}, "training.optimizer"),
        ({"schedule": "quadratic"}, "schedule"),
    ],
)
def test_a_faulty_setting_of_a_recipe_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=rf"recipe: techniques.0 \(prune\): {message}"):
        Recipe.from_json({"techniques": [{"kind": "prune", **settings}]})


def test_a_pruning_continues_after_the_steps_that_are_done(tmp_path: Path) -> None:
    technique = Prune(steps=3, finetune_epochs=1, training=TRAINING)
    expected = pruned(technique, tmp_path).facts["prune"]["training"]

    class Killed(Exception):
        pass

    def kill(name: str, share: float) -> None:
        if name == "prune, step 3 of 3":
            raise Killed

    states = tmp_path / "states"
    with pytest.raises(Killed):
        pruned(technique, tmp_path, checkpoints=states, progress=kill)
    assert len([*states.iterdir()]) == 2
    assert pruned(technique, tmp_path, checkpoints=states).facts["prune"]["training"] == expected
