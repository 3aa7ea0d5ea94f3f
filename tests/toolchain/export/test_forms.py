"""Real models in every form: each is opened, and agrees with the module on other rows, lengths and branches."""

from __future__ import annotations

import functools
import shutil
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import exportable_models as models
import networks
import numpy as np
import onnx
import pytest
import torch

from penstock.backends.devices import missing_features
from penstock.scan.scanner import scan_file
from penstock.toolchain.export.branches import probes
from penstock.toolchain.export.exported import Exported, ExportFailed, ExportOptions, ExportSkipped
from penstock.toolchain.export.forms import DEFAULTS, FORMS, export_form, open_exported
from penstock.toolchain.export.source import ModuleSource, module_source

SOURCES: dict[str, Callable[[], ModuleSource]] = {
    "my model": lambda: module_source(*models.make_my_model()),
    "digits": lambda: module_source(models.make_digits(), torch.rand(2, 784)),
    "residual": lambda: module_source(*models.make_residual()),
    "lstm": lambda: module_source(*models.make_lstm(), dynamic={"x": {0: "texts", 1: "steps"}}),
    "gru": lambda: module_source(*models.make_gru(), dynamic={"x": [0, 1]}),
    "encoder": lambda: module_source(*models.make_encoder(), dynamic={"tokens": [0, 1], "mask": [0, 1]}),
    "mixed": lambda: module_source(*models.make_mixed(), dynamic={"ids": [0, 1], "mask": [0, 1]}),
    "detector": lambda: module_source(models.seeded(networks.Detector), models.values(2, 3, 16, 16)),
    "branching": lambda: module_source(*models.make_branching()),
    "nested": lambda: module_source(models.seeded(models.NestedBranch), models.values(2, 4)),
    "looping": lambda: module_source(models.seeded(models.Looping), 3 * models.values(2, 4)),
    "counting": lambda: module_source(models.seeded(models.Counting), models.values(2, 4)),
    "conditional": lambda: module_source(models.seeded(models.Conditional), models.values(2, 4)),
    "custom": lambda: module_source(models.seeded(models.Custom), models.values(2, 4)),
}
source_of = functools.cache(lambda name: SOURCES[name]())

TRANSLATED = ExportOptions(translations="exportable_models:TRANSLATIONS")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """Exports a model by name, once for each form."""
    root = tmp_path_factory.mktemp("exports")

    @functools.cache
    def once(name: str, form: str) -> Exported:
        options = TRANSLATED if name == "custom" else None
        return export_form(form, source_of(name), root / name, options)

    return once


def assert_agrees(exported: Exported, source: ModuleSource, rows: tuple[int, ...] = (1, 2, 7)) -> None:
    """The export gives the answers of the module for several batches and all probes."""
    with closing(open_exported(exported, source)) as backend, closing(source.reference()) as reference:
        batches = [
            {name: np.concatenate([array] * 4)[:count] for name, array in source.example.items()} for count in rows
        ]
        for inputs in [*batches, *(dict(probe.inputs) for probe in probes(source))]:
            expected, got = reference.run(inputs), backend.run(inputs)
            for name in expected:
                assert np.allclose(expected[name], got[name], rtol=1e-3, atol=1e-3, equal_nan=True), name


PLAIN = ("my model", "residual", "mixed", "encoder", "lstm", "detector")


@pytest.mark.parametrize("name", PLAIN)
def test_a_trace_agrees_at_other_rows_and_lengths(name: str, export: Callable[..., Exported]) -> None:
    assert_agrees(export(name, "torchscript-trace"), source_of(name))


@pytest.mark.parametrize("name", ["mixed", "lstm", "branching", "nested", "looping", "counting"])
def test_a_script_keeps_control_flow(name: str, export: Callable[..., Exported]) -> None:
    assert_agrees(export(name, "torchscript-script"), source_of(name))


@pytest.mark.parametrize("name", ["my model", "mixed", "encoder", "gru", "conditional"])
def test_onnx_by_the_current_exporter(name: str, export: Callable[..., Exported]) -> None:
    exported, source = export(name, "onnx"), source_of(name)
    assert "dynamo=True" in exported.exporter
    assert exported.notes == ()
    assert_agrees(exported, source)
    graph = onnx.load(exported.path).graph
    for side, specs in ((graph.input, source.signature.inputs), (graph.output, source.signature.outputs)):
        assert [value.name for value in side] == [spec.name for spec in specs]
        for value, spec in zip(side, specs, strict=True):
            lengths = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            dims = spec.dims or (None,) * len(spec.shape)
            assert lengths == [name or n for n, name in zip(spec.shape, dims, strict=True)]


@pytest.mark.parametrize("name", ["mixed", "lstm", "conditional"])
def test_a_program_needs_no_pickle_and_records_its_signature(name: str, export: Callable[..., Exported]) -> None:
    exported, source = export(name, "pt2"), source_of(name)
    assert_agrees(exported, source)
    assert scan_file(exported.path, "pt2").tier == "code"
    bare = ModuleSource(source.name, source.module, source.signature, source.example)
    with closing(open_exported(exported, bare)) as backend:
        assert [spec.shape for spec in backend.signature.inputs] == [spec.shape for spec in source.signature.inputs]


@pytest.mark.parametrize("name", ["residual", "lstm", "digits"])
def test_weights_with_their_class(name: str, export: Callable[..., Exported]) -> None:
    exported = export(name, "pytorch")
    assert exported.architecture == f"{type(source_of(name).module).__module__}:{type(source_of(name).module).__name__}"
    assert_agrees(exported, source_of(name))


def test_the_same_module_gives_the_same_onnx_file(export: Callable[..., Exported], tmp_path: Path) -> None:
    first = export("my model", "onnx").path.read_bytes()
    again = export_form("onnx", SOURCES["my model"](), tmp_path)
    assert again.path.read_bytes() == first
    assert b"exportable_models.py" not in first


def test_opset_and_external_data_can_be_chosen(tmp_path: Path) -> None:
    options = ExportOptions(opset=18, external_data=True)
    exported = export_form("onnx", source_of("my model"), tmp_path, options)
    assert exported.exporter.endswith("opset 18")
    assert list(exported.companions) == ["model.onnx.data"]
    assert exported.companions["model.onnx.data"].stat().st_size > exported.path.stat().st_size
    assert_agrees(exported, source_of("my model"))


def test_a_custom_operator_is_exported_with_its_translation(export: Callable[..., Exported], tmp_path: Path) -> None:
    assert_agrees(export("custom", "onnx"), source_of("custom"))
    with pytest.raises(
        ExportFailed,
        match=r"\(in Custom, exportable_models.py line \d+: `return scaled_tanh.*there is no ONNX function for the "
        r"operator penstock_tests.scaled_tanh; give the ONNX function of this operator, translations=",
    ):
        export_form("onnx", source_of("custom"), tmp_path)


@pytest.mark.parametrize(
    ("name", "form", "says"),
    [
        ("branching", "torchscript-trace", r"keep one branch of the model \(in Branching, .*`if x.sum\(\) > 0:`\)"),
        ("nested", "torchscript-trace", r"keep one branch of the model \(in gate \(Gate\), .*bool\(x.mean\(\) > 0\)"),
        ("looping", "torchscript-trace", r"keep one branch of the model \(in Looping, .*`while x.abs\(\)"),
        (
            "counting",
            "torchscript-trace",
            r"froze a number that the model takes out of a tensor \(in Counting, .*float",
        ),
        ("conditional", "torchscript-trace", r"TorchScript has no torch.cond.*export onnx or pt2"),
        ("custom", "torchscript-trace", r"calls 'ops.penstock_tests.scaled_tanh', which is not a PyTorch operator"),
        ("branching", "onnx", r"\(in Branching, .*`if x.sum\(\) > 0:`\): it decides by the values.*torch.cond"),
        ("nested", "pt2", r"\(in gate \(Gate\), .*it decides by the values"),
        ("looping", "pt2", r"`while x.abs\(\).*it decides by the values.*torch.while_loop"),
        ("counting", "onnx", r"`largest = float\(x.abs\(\).max\(\)\)`\): it decides by the values"),
    ],
)
def test_what_a_form_cannot_hold_is_refused_with_operation_module_line_and_remedy(
    name: str, form: str, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportFailed, match=says) as caught:
        export_form(form, source_of(name), tmp_path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_form_that_does_not_exist_is_named() -> None:
    with pytest.raises(ExportFailed, match=r"use onnx, torchscript-trace"):
        export_form("tflite", source_of("my model"), Path("nowhere"))
    assert set(DEFAULTS) <= set(FORMS)


def test_weights_of_a_class_that_cannot_be_built_again_are_skipped(tmp_path: Path) -> None:
    class Local(models.Branching):
        pass

    with pytest.raises(ExportSkipped, match="Local is defined inside a function; move it to a module"):
        export_form("pytorch", module_source(models.seeded(Local), models.values(2, 4)), tmp_path)
    asks = module_source(torch.nn.Sequential(torch.nn.Linear(4, 3)), models.values(2, 4))
    with pytest.raises(ExportSkipped, match=r"need the arguments that torch.nn.modules.container:Sequential was built"):
        export_form("pytorch", asks, tmp_path)


def test_weights_know_arguments_that_the_module_keeps(tmp_path: Path) -> None:
    source = module_source(torch.nn.Linear(4, 3), models.values(2, 4))
    exported = export_form("pytorch", source, tmp_path)
    assert exported.architecture_args["in_features"] == 4
    assert_agrees(exported, source)


@pytest.mark.skipif(not shutil.which("g++"), reason="AOTInductor needs a C++ compiler")
def test_native_code_is_portable_and_records_what_it_needs(tmp_path: Path) -> None:
    source = source_of("mixed")
    exported = export_form("aoti", source, tmp_path)
    assert_agrees(exported, source)
    assert exported.exporter.endswith("for x86-64-v3")
    assert missing_features(exported.requires) == []
    assert not any("avx512" in flag for flag in exported.requires)


def test_without_a_compiler_native_code_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExportSkipped, match=r"needs a C\+\+ compiler, and there is none; install g\+\+"):
        export_form("aoti", source_of("my model"), tmp_path)


class Halved(torch.nn.Module):
    """The length of the example ends up in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.length: int | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = [x[:, step] * (step + 1) for step in range(x.shape[1])]
        return torch.stack(rows, dim=1)


@pytest.mark.parametrize("form", ["torchscript-trace", "pt2", "onnx"])
def test_an_axis_that_was_frozen_is_named_with_its_length(form: str, tmp_path: Path) -> None:
    source = module_source(Halved(), models.values(2, 6), dynamic={"x": [0, 1]})
    with pytest.raises(ExportFailed, match=r"axis 1 of x .*the length 6") as caught:
        export_form(form, source, tmp_path)
    assert "\n" not in str(caught.value)


def test_outputs_named_as_inputs_cannot_be_onnx(tmp_path: Path) -> None:
    class Same(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return {"x": x + 1}

    with pytest.raises(ExportFailed, match=r"ONNX needs different names for inputs and outputs, and x is both"):
        export_form("onnx", module_source(Same(), models.values(2, 4)), tmp_path)


def test_the_legacy_exporter_is_used_where_the_current_one_fails_and_named(tmp_path: Path) -> None:
    module, example = models.make_my_model()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and this is a user's old model
        traced: Any = torch.jit.trace(module, example.repeat(2, 1, 1, 1))
    source = module_source(traced, example.repeat(2, 1, 1, 1))
    exported = export_form("onnx", source, tmp_path)
    assert "dynamo=False" in exported.exporter
    assert exported.notes[0].startswith("the legacy ONNX exporter was used, since torch.export cannot export the model")
    assert_agrees(exported, source)
    with pytest.raises(ExportFailed, match=r"torch.export cannot export"):
        export_form("onnx", source, tmp_path, ExportOptions(fallback=False))


@torch.library.custom_op("penstock_tests::shapeless", mutates_args=())
def shapeless(x: torch.Tensor) -> torch.Tensor:
    """An operator that does not say which shapes it returns."""
    return x * 2


class Shapeless(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return shapeless(x)


class Numpy(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.tanh(x.numpy()))


def quantized() -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and what users have
        inner = torch.nn.Sequential(torch.nn.Linear(4, 3))
        return torch.ao.quantization.quantize_dynamic(inner, dtype=torch.qint8)


@pytest.mark.filterwarnings("ignore")  # of PyTorch's own deprecated classes
@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Shapeless, r"in Shapeless, .*an operator does not say which shapes.*torch.library.register_fake"),
        (Numpy, r"in Numpy, .*`return torch.from_numpy.*it leaves PyTorch for numpy"),
        (quantized, r"it is quantized by PyTorch's eager mode.*export the model as it was before"),
    ],
)
def test_models_that_no_exporter_takes_say_why_and_what_to_do(
    module: Any, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = module_source(module().eval(), models.values(2, 4))
    for form in ("pt2", "onnx"):
        with pytest.raises(ExportFailed, match=says) as caught:
            export_form(form, source, tmp_path)
        assert "\n" not in str(caught.value)
        assert str(caught.value).count("cannot export the model") == 1
    assert capfd.readouterr() == ("", "")
