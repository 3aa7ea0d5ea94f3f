"""Programs of torch.export: the scanner refuses everything that PyTorch's loader would execute."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from crafted import Payload, evil_pickle, members, packed, with_member

from penstock.scan.findings import Report
from penstock.scan.scanner import scan_bytes

WEIGHTS = "data/weights/model_weights_config.json"


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)
        self.shift = torch.ones(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[0]
        return torch.relu(self.linear(x)).reshape(length * 3 // 1, 1) + self.shift.sum()


@pytest.fixture(scope="module")
def exported() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dynamic = {"x": {0: torch.export.Dim("batch", min=2, max=4096)}}
        program = torch.export.export(Model().eval(), (torch.ones(6, 4),), dynamic_shapes=dynamic)
        torch.export.save(program, buffer)
    return buffer.getvalue()


def report(data: bytes, format: str = "pt2") -> Report:
    return scan_bytes(memoryview(data), Path("m.pt2"), format)


def says(found: Report) -> str:
    return "; ".join(finding.what for finding in found.findings if finding.needs is None)


def changed_json(data: bytes, member: str, change: Callable[[Any], None]) -> bytes:
    name = next(name for name in members(data) if name.endswith(member))
    content = json.loads(members(data)[name])
    change(content)
    return with_member(data, member, json.dumps(content).encode())


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_an_exported_program_needs_code_trust_and_no_more(exported: bytes) -> None:
    found = report(exported)
    assert (found.kind, found.tier, says(found)) == ("pt2", "code", "")


def test_sample_inputs_that_run_a_command_are_refused(
    exported: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker, samples = tmp_path / "marker", "data/sample_inputs/model.pt"
    assert not says(report(with_member(exported, samples, saved(((torch.ones(2),), {})))))
    evil = with_member(exported, samples, saved(((torch.ones(2), Payload(marker)), {})))
    assert "posix.system" in says(report(evil))
    assert not marker.exists()
    monkeypatch.setattr(logging.getLogger("torch._export.serde.serialize"), "disabled", True)
    with warnings.catch_warnings():  # the attack is real: this is the effect of opening the file
        warnings.simplefilter("ignore")
        (tmp_path / "evil.pt2").write_bytes(evil)
        torch.export.load(tmp_path / "evil.pt2")
    assert marker.exists()


def test_sample_inputs_may_be_absent_but_not_of_another_type(exported: bytes) -> None:
    assert not says(report(with_member(exported, "data/sample_inputs/model.pt", b"")))
    assert report(with_member(exported, "data/sample_inputs/model.pt", b"\x80\x02N.")).refused


@pytest.mark.parametrize(
    "member",
    [
        "data/constants/opaque_obj_0",
        "data/constants/custom_obj_0",
        "data/more/opaque_obj_0",
        "data/weights/more.pt",
        "evil.pkl",
        "data/evil.so",
        "models/evil.cpp",
        "data/evil.so.1",
        "extra/evil.py",
    ],
)
def test_members_that_would_be_unpickled_or_run_are_refused(exported: bytes, member: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    assert report(with_member(exported, member, evil_pickle(marker))).refused
    assert not marker.exists()


@pytest.mark.parametrize(
    "fields", [{"use_pickle": True}, {"use_pickle": 1}, {"path_name": "opaque_obj_0"}, {"path_name": "../weight_0"}]
)
def test_weights_that_are_more_than_bytes_are_refused(exported: bytes, fields: dict[str, Any]) -> None:
    def change(content: Any) -> None:
        next(iter(content["config"].values())).update(fields)

    assert "would be unpickled" in says(report(changed_json(exported, WEIGHTS, change)))


def test_a_description_that_is_not_json_is_refused(exported: bytes) -> None:
    assert "not JSON" in says(report(with_member(exported, WEIGHTS, b"{")))
    assert "not JSON" in says(report(with_member(exported, WEIGHTS, b"[" * 100_000)))
    assert "not a list of tensors" in says(report(with_member(exported, WEIGHTS, b"[]")))


def test_a_package_of_native_code_needs_native_trust(exported: bytes) -> None:
    data = with_member(exported, "data/aotinductor/model/m.wrapper.so", b"\x7fELF")
    found = report(data, "aoti")
    assert (found.kind, found.tier, says(found)) == ("aoti", "native", "")
    assert found.against("code")
    assert "does not promise" in says(report(data, "pt2"))


def test_an_archive_in_a_program_is_refused(exported: bytes) -> None:
    assert report(with_member(exported, "extra/more.json", packed({"a": b""}))).refused


def test_a_second_directory_is_refused(exported: bytes) -> None:
    assert report(packed({**members(exported), "other/models/model.json": b"{}"})).refused
