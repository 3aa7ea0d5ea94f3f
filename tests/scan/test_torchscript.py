"""TorchScript needs trust, and even then must not reach outside the model."""

from __future__ import annotations

import ast
import io
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from crafted import changed, evil_pickle, members, with_member

from penstock.scan import torchscript
from penstock.scan.findings import Report
from penstock.scan.scanner import scan_bytes

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

SOURCE = "code/__torch__.py"


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


def with_line(data: bytes, line: str) -> bytes:
    """The archive with one more statement in the first function of its program."""
    name = next(name for name in members(data) if name.endswith(".py"))
    source = members(data)[name].decode()
    changed_source = re.sub(r"(def forward\(.*?\) -> \w+:\n)", rf"\1    {line}\n", source, count=1, flags=re.DOTALL)
    assert changed_source != source
    return with_member(data, name.partition("/")[2], changed_source.encode())


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


def test_a_model_that_reads_files_is_refused_even_where_code_is_trusted() -> None:
    found = report(saved(ReadsFiles()))
    assert found.refused
    assert any("'from_file'" in finding.what for finding in found.against("code"))


@pytest.mark.parametrize(
    "line",
    [
        'x.save("stolen")',
        'torch.save(x, "stolen")',
        "t = torch",
        "o = ops",
        'y = ops.debugprims.load_tensor("/etc/hostname", [1], [1])',
        'y = getattr(ops, "debugprims")',
        'y = getattr(x, "from_file")',
        'y = getattr(x, "from_" + "file")',
        "y = ops.acme.steal(x)",
        "y = ops.aten.from_file(x)",
        "y = __torch__.torch.classes.acme.Thief(x)",
        "y = torch.classes.acme.Thief(x)",
        "y = rpc_sync(x)",
        "import os",
        'y = f(x).from_file("/etc/hostname")',
        "y = torch.ｆrom_file(x)",
        "# harmless\r    y = 1",
        'y = "torch.save (x)"',
    ],
)
def test_a_program_with_outside_access_is_refused(scripted: bytes, line: str) -> None:
    found = report(with_line(scripted, line))
    assert found.refused


@pytest.mark.parametrize(
    "line", ["y = ops.aten.relu(x)", "y = ops.prim.NumToTensor(1)", 'y = annotate(str, "from_file")']
)
def test_a_program_of_calculations_is_allowed(scripted: bytes, line: str) -> None:
    assert not report(with_line(scripted, line)).refused


def test_a_program_that_cannot_be_parsed_is_refused(scripted: bytes) -> None:
    assert report(with_line(scripted, "y = = x")).refused
    assert report(with_line(scripted, "y = " + "(" * 5000 + "x")).refused


@pytest.mark.parametrize(
    "member", ["data.pkl", "constants.pkl", "code/__torch__.py.debug_pkl", "more.pkl", "DATA2.PKL"]
)
def test_a_pickle_for_python_in_it_is_refused(scripted: bytes, member: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    found = report(with_member(scripted, member, evil_pickle(marker)))
    assert found.refused
    assert any("posix.system" in finding.what for finding in found.findings)
    assert not marker.exists()


def test_a_class_of_a_library_in_its_attributes_is_refused(scripted: bytes) -> None:
    pickle = b"\x80\x02c__torch__.torch.classes.acme\nThief\n."
    found = report(with_member(scripted, "data.pkl", pickle))
    assert found.refused


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


def test_a_program_is_read_although_other_threads_parse_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython issue 106905: the depth of all threads is counted together."""
    parse, calls = ast.parse, []

    def disturbed(text: str) -> Any:
        calls.append(text)
        if len(calls) < 3:
            raise SystemError("AST constructor recursion depth mismatch (before=96, after=61)")
        return parse(text)

    monkeypatch.setattr(ast, "parse", disturbed)
    assert not list(torchscript._source("code.py", b"def forward(self, x):\n  return x\n"))
    assert len(calls) == 3
