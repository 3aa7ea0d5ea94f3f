"""TorchScript needs trust, and holds no pickles of Python even then."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
import torch
from crafted import changed, evil_pickle, with_member

from penstock.scan.findings import Report
from penstock.scan.scanner import scan_bytes

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Plain(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)
        self.norm = torch.nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):
            return torch.relu(self.norm(self.linear(x)))
        return torch.einsum("ij,jk->ik", self.linear(x), torch.eye(3)) * float("inf")


class ReadsFiles(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_file("/etc/hostname", False, 4, dtype=torch.uint8)


def saved(module: torch.nn.Module | torch.jit.ScriptModule) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(module if isinstance(module, torch.jit.ScriptModule) else torch.jit.script(module), buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def scripted() -> bytes:
    return saved(Plain().eval())


def report(data: bytes) -> Report:
    return scan_bytes(memoryview(data), Path("m.ts"), "torchscript")


def test_a_scripted_model_needs_code_trust_and_no_more(scripted: bytes) -> None:
    found = report(scripted)
    assert (found.kind, found.tier, found.refused) == ("torchscript", "code", False)


def test_a_traced_and_frozen_model_needs_code_trust() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.freeze(torch.jit.trace(Plain().eval(), torch.ones(2, 4)))
    found = report(saved(traced))
    assert (found.kind, found.tier, found.refused) == ("torchscript", "code", False)


def test_a_quantized_model_uses_classes_of_pytorch() -> None:
    linear = torch.nn.Sequential(torch.nn.Linear(4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = report(saved(torch.ao.quantization.quantize_dynamic(linear)))
    assert (found.tier, found.refused) == ("code", False)


def test_what_a_program_calls_is_a_question_of_trust() -> None:
    found = report(saved(ReadsFiles()))
    assert (found.tier, found.refused) == ("code", False)
    assert found.against("data")


@pytest.mark.parametrize(
    "member", ["data.pkl", "constants.pkl", "code/__torch__.py.debug_pkl", "more.pkl", "DATA2.PKL"]
)
def test_a_pickle_for_python_in_it_is_refused(scripted: bytes, member: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    found = report(with_member(scripted, member, evil_pickle(marker)))
    assert found.refused
    assert any("posix.system" in finding.what for finding in found.findings)
    assert not marker.exists()


def test_an_archive_in_it_is_refused(scripted: bytes) -> None:
    assert report(with_member(scripted, "extra/more.json", scripted)).refused
    assert not report(with_member(scripted, "extra/more.json", b"{}")).refused


def test_it_is_recognized_by_its_content_with_any_name(scripted: bytes) -> None:
    for name, format in (("m.pt", "pytorch"), ("m.ckpt", None), ("m.onnx", "onnx"), ("m.pt2", "pt2")):
        found = scan_bytes(memoryview(scripted), Path(name), format)
        assert (found.kind, found.tier, found.refused) == ("torchscript", "code", True)
    assert not scan_bytes(memoryview(scripted), Path("m.pt")).refused


def test_weights_that_carry_a_program_are_a_program() -> None:
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(2)}, buffer)
    data = changed(buffer.getvalue(), constants_dot_pkl=b"\x80\x02N.")
    assert scan_bytes(memoryview(data), Path("m.pt"), "pytorch").tier == "code"
