"""The table of model formats, and a made-up format that is added by one row and one backend."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import penstock
from penstock.artifacts.artifact import Artifact, Golden, TaskEntry, VariantSource, write_artifact
from penstock.artifacts.refs import parse_ref
from penstock.backends.base import Backend, BackendOptions, ModelFile
from penstock.backends.catalog import format_of, opens_quickly, outputs_from_runs, runnable, signature_from_example
from penstock.cli.models.import_file import publish_file
from penstock.engine.loading.manager import ModelManager
from penstock.engine.predictor.predictor import Predictor
from penstock.errors import InferenceError, IntegrityError, InvalidInput, ModelLoadError, UnsupportedFormat, Untrusted
from penstock.file_description import FileDescription
from penstock.formats import (
    FORMATS,
    FileKind,
    Format,
    Runtime,
    file_stem,
    formats_of_suffix,
    is_model_file,
    python_class,
    runtime_packages,
)
from penstock.libraries import import_attribute
from penstock.registry.registry import Registry
from penstock.scan.findings import Finding, Refused
from penstock.scan.scanner import kind_of_file, scan_file
from penstock.settings import Settings
from penstock.tensors import Arrays, Signature, TensorSpec

WIDTH = 4
X = np.arange(3 * WIDTH, dtype=np.float32).reshape(3, WIDTH)
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, WIDTH)),), (TensorSpec("y", "FP32", (-1, WIDTH)),))


# --- a made-up format: a mark and a JSON object with one factor ------------------------------------------------


class ScaleBackend(Backend):
    """Multiplies every number by a factor."""

    format = "scale"
    device = "cpu"
    num_parameters = 1

    def __init__(self, factor: float) -> None:
        self.signature = SIGNATURE
        self._factor: float | None = factor

    @classmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> ScaleBackend:  # noqa: ARG003
        return cls(json.loads(file.path.read_bytes().removeprefix(b"SCALE"))["factor"])

    def run(self, inputs: Arrays) -> Arrays:
        if self._factor is None:
            raise InferenceError("the model is closed")
        return {"y": inputs["x"] * np.float32(self._factor)}

    def close(self) -> None:
        self._factor = None


def scan_scale(data: memoryview, _: Path | None) -> Iterator[Finding]:
    try:
        content = json.loads(bytes(data[5:]))
    except ValueError:
        raise Refused("the file is damaged or not a scale model") from None
    if "command" in content:
        yield Finding("native", "it runs a command")


SCALE = Format(
    name="scale",
    files=(FileKind("scale", f"{__name__}:scan_scale", (".scale",), magic=(b"SCALE",)),),
    trust="code",
    backend=f"{__name__}:ScaleBackend",
    runtime=Runtime("numpy", "pip install numpy"),
    preference=15,
)


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> Format:
    monkeypatch.setitem(FORMATS, "scale", SCALE)
    return SCALE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "double.scale"
    path.write_bytes(b"SCALE" + json.dumps({"factor": 2.0}).encode())
    return path


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path / "registry") as registry:
        yield registry


def doubling_onnx(path: Path) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, WIDTH]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def artifact(directory: Path, *variants: VariantSource) -> Artifact:
    return write_artifact(
        directory,
        name="double",
        version="v1.0",
        task=TaskEntry(kind="tensor"),
        signature=SIGNATURE,
        variants=list(variants),
        golden=Golden({"x": X}, {"y": 2 * X}, 1e-6, 1e-6),
        card="",
    )


def test_the_fictional_format_is_unknown_without_its_row(file: Path) -> None:
    assert not is_model_file("double.scale")
    assert not runnable("scale")
    with pytest.raises(UnsupportedFormat, match=r"\.scale is not a model format"):
        format_of(file)
    assert scan_file(file).refused


def test_its_files_are_recognized_by_content_and_suffix(file: Path, scale: Format, tmp_path: Path) -> None:
    assert is_model_file("double.scale")
    assert kind_of_file(file) == "scale"
    assert formats_of_suffix(".scale") == [scale]
    assert runnable("scale")
    assert opens_quickly("scale")
    other = doubling_onnx(tmp_path / "m.scale")
    assert scan_file(other).refused
    assert Settings(model_type="scale").model_type == "scale"


def test_its_scanner_is_used(file: Path, scale: Format, tmp_path: Path) -> None:
    assert (scan_file(file).kind, scan_file(file).findings) == ("scale", ())
    file.write_bytes(b'SCALE{"factor": 1, "command": "rm"}')
    assert scan_file(file).tier == "native"
    with pytest.raises(Untrusted, match=r"it runs a command.*trust=.native."):
        Predictor(file, registry=tmp_path / "none", trust="code")
    file.write_bytes(b"SCALE but no JSON")
    with pytest.raises(IntegrityError, match="not a scale model"):
        Predictor(file, registry=tmp_path / "none", trust="native")


def test_a_bare_file_is_served_at_its_tier_of_trust_and_refused_below_it(
    file: Path, scale: Format, tmp_path: Path
) -> None:
    with Predictor(file, registry=tmp_path / "none", trust="code") as predictor:
        assert predictor.info.format == "scale"
        assert predictor.info.variant == "scale-fp32"
        model = predictor._model.backend
        np.testing.assert_array_equal(model.run({"x": X})["y"], 2 * X)
    with pytest.raises(Untrusted, match=r"models of the format scale can run code.*trust=.code."):
        Predictor(file, registry=tmp_path / "none")


def test_a_bare_file_is_published_and_answers_from_the_registry(file: Path, scale: Format, registry: Registry) -> None:
    published = publish_file(registry, file, trust="code", description=FileDescription(task="tensor"))
    assert published.variants[0].format == "scale"
    assert published.golden() is not None
    with Predictor("double", registry=registry) as predictor:
        np.testing.assert_array_equal(predictor.predict({"inputs": {"x": X.tolist()}}).outputs["y"], 2 * X)


def test_publishing_it_takes_its_tier_of_trust(file: Path, scale: Format, registry: Registry, tmp_path: Path) -> None:
    made = artifact(tmp_path / "artifact", VariantSource("scale", "fp32", file))
    with pytest.raises(Untrusted, match=r"trust=.code."):
        registry.publish(made.path)
    assert registry.list() == []
    registry.publish(made.path, prove=False)
    with pytest.raises(Untrusted, match=r"trust=.code."):
        Predictor("double", registry=registry)
    with Predictor("double", registry=registry, trust="code") as predictor:
        assert predictor.info.format == "scale"
    registry.publish(made.path, trust="code")
    with Predictor("double", registry=registry) as predictor:
        assert predictor.info.format == "scale"


@pytest.mark.parametrize(("preference", "first"), [(5, "scale-fp32"), (15, "onnx-fp32")])
def test_its_preference_decides_which_variant_is_tried_first(
    preference: int, first: str, file: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "scale", replace(SCALE, preference=preference, trust="data"))
    onnx_file = doubling_onnx(tmp_path / "m.onnx")
    variants = [VariantSource("scale", "fp32", file), VariantSource("onnx", "fp32", onnx_file)]
    registry.publish(artifact(tmp_path / "artifact", *variants).path)
    manager = ModelManager(registry, choosing="first")
    assert manager.load_model("double").variant == first
    manager.close()


def test_a_missing_runtime_says_what_to_install(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(FORMATS, "scale", replace(SCALE, runtime=Runtime("scalelib", "pip install scalelib")))
    with pytest.raises(UnsupportedFormat, match="running scale models needs scalelib; pip install scalelib"):
        Predictor(file, registry=tmp_path / "none", trust="code")


def test_a_backend_that_infers_no_signature_says_what_is_missing(file: Path, scale: Format) -> None:
    with pytest.raises(UnsupportedFormat, match="scale does not record its outputs; describe them"):
        outputs_from_runs("scale", ModelFile(file), SIGNATURE.inputs, "code")
    with pytest.raises(ModelLoadError, match="an example input needs the architecture too"):
        signature_from_example("scale", ModelFile(file), X, "code")
    with pytest.raises(Untrusted):
        outputs_from_runs("scale", ModelFile(file), SIGNATURE.inputs, "data")


# --- the rows that ship ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_every_row_names_things_that_exist(row: Format) -> None:
    backend = import_attribute(row.backend)
    assert issubclass(backend, Backend)
    assert backend.format == row.name
    assert all(callable(import_attribute(file.scanner)) for file in row.files)
    assert row.options <= BackendOptions.model_fields.keys()
    assert row.runs_alone() or row.not_bare


def test_no_two_rows_claim_the_same_kind_suffix_or_preference() -> None:
    files = [file for row in FORMATS.values() for file in row.files]
    assert len({file.name for file in files}) == len(files)
    assert len({row.preference for row in FORMATS.values()}) == len(FORMATS)
    owners = [(suffix, row.name) for row in FORMATS.values() for suffix in row.suffixes if not row.shares(suffix)]
    assert len({suffix for suffix, _ in owners}) == len(owners)


def test_the_packages_that_run_formats_are_listed_once() -> None:
    assert runtime_packages() == ["onnxruntime", "openvino", "torch"]


@pytest.mark.parametrize(
    ("ref", "is_file"),
    [("m.onnx", True), ("M.PT", True), ("a/b", True), ("m", False), ("m:v1.0", False), ("m@champion", False)],
)
def test_a_reference_is_a_file_by_its_suffix_or_a_slash(ref: str, is_file: bool) -> None:
    assert is_model_file(ref) is is_file


@pytest.mark.parametrize(
    ("ref", "target", "name"),
    [
        ("python:a:B", "a:B", "B"),
        ("python:a.b_c:Größe", "a.b_c:Größe", "Größe"),
        ("python:a", None, None),
        ("python:a.:B", None, None),
        ("python:a:B.c", None, None),
        ("python:a:B()", None, None),
        ("a:B", None, None),
    ],
)
def test_a_python_class_is_named_as_no_model_of_the_registry_can_be(
    ref: str, target: str | None, name: str | None
) -> None:
    assert python_class(ref) == target
    if target is not None:
        assert file_stem(ref) == name
        assert is_model_file(ref)
        with pytest.raises(InvalidInput):
            parse_ref(ref)


WRITERS = ("toolchain/", "artifacts/measured_card.py", "cli/models/import_directory.py")
"""What makes files of certain formats, or names them as other programs do."""


def test_no_other_module_holds_a_table_of_formats() -> None:
    """No module that reads, scans, stores or serves models."""
    source = Path(penstock.__file__).parent
    tables = {}
    for path in source.rglob("*.py"):
        constants = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
        named = {value for value in constants if isinstance(value, str) and value in FORMATS}
        shown = path.relative_to(source).as_posix()
        if len(named) > 1 and not shown.startswith(WRITERS):  # a backend names its own
            tables[shown] = named
    assert tables == {"formats.py": set(FORMATS)}
