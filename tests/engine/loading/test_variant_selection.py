"""The selection of a variant, its reasons, and its cache."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear_models import FEATURES, SIGNATURE, linear, weights

from penstock.artifacts.artifact import Artifact, Golden, TaskEntry, VariantSource, write_artifact
from penstock.backends import devices, verification
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.loading import variant_race, variant_selection
from penstock.engine.loading.bring_up import ReadyBackend
from penstock.engine.loading.load import load_artifact
from penstock.engine.loading.selection_cache import SelectionResult, read_selection, write_selection
from penstock.engine.loading.variant_selection import VariantSelection, known_results, select_variant
from penstock.errors import GoldenMismatch, IntegrityError, InvalidInput, UnsupportedFormat, Untrusted
from penstock.options import BackendOptions, EngineOptions
from penstock.tensors import Arrays

X = np.random.default_rng(1).standard_normal((5, FEATURES)).astype(np.float32)
ALL_FORMS = ("onnx", "openvino", "pt2")


class Clock:
    """Simulated seconds that pass only while a scripted backend runs, so that results do not depend on the machine."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic


class Paced:
    """A backend that gives correct outputs and takes `delay` simulated seconds a run."""

    format, device, own_threads = "onnx", "cpu", False
    parallel_runs = example = None
    num_parameters, num_bytes, warnings = 12, 48, ()
    signature = SIGNATURE

    def __init__(self, delay: float, clock: Clock) -> None:
        self.delay = delay
        self.closed = False
        self._clock = clock

    def run(self, inputs: Arrays) -> Arrays:
        self._clock.now += self.delay
        return {"logits": inputs["x"] @ weights(0)}

    def close(self) -> None:
        self.closed = True


class Machine:
    """The result of opening each format: a speed, or an error; records which were opened."""

    def __init__(self, clock: Clock, **forms: float | Exception) -> None:
        self.forms = forms
        self._clock = clock
        self.opened: list[str] = []
        self.backends: list[Paced] = []
        self.whole: set[str] = set()
        """The forms that are not batchable."""

    def bring_up(
        self, format: str, file: Any, options: Any, limits: BatchLimits, golden: Any, what: str, known: Any
    ) -> ReadyBackend:
        self.opened.append(format)
        pace = self.forms[format]
        if isinstance(pace, Exception):
            raise pace
        self._clock.now += pace  # of the warm-up
        self.backends.append(Paced(pace, self._clock))
        timings = {1: pace} if format in self.whole else {1: pace, 32: pace}
        return ReadyBackend(self.backends[-1], limits, timings, 1)  # type: ignore[arg-type]

    @property
    def left_open(self) -> int:
        return sum(not backend.closed for backend in self.backends)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write(tmp_path, "onnx", "openvino", "pt2")


def write(tmp_path: Path, *formats: str, precision: str = "fp32", where: str = "artifact") -> Artifact:
    model = linear(tmp_path / "model.onnx")
    return write_artifact(
        tmp_path / where,
        name="m",
        version="1",
        task=TaskEntry(kind="vector-classification", config={}),
        signature=SIGNATURE,
        variants=[VariantSource(format, precision, model) for format in formats],
        golden=Golden({"x": X}, {"logits": X @ weights(0)}, 1e-5, 1e-5),
        card="",
    )


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a scripted machine in place of the backends, and simulated seconds in place of the clock."""
    clock = Clock()
    for module in (variant_selection, variant_race):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(verification, "time", clock)

    def put(**forms: float | Exception) -> Machine:
        machine = Machine(clock, **forms)
        monkeypatch.setattr(variant_selection, "bring_up", machine.bring_up)
        monkeypatch.setattr(variant_selection, "runnable", lambda format: format in forms)
        monkeypatch.setattr(variant_selection, "opens_quickly", lambda format: format != "pytorch")
        return machine

    return put


def taken(artifact: Artifact, **how: Any) -> Any:
    return select_variant(artifact, BackendOptions(), BatchLimits(), VariantSelection(**how))


def reasons(chosen: Any) -> dict[str, str]:
    return {result.variant: result.reason for result in chosen.results}


def test_the_fastest_variant_is_selected_and_every_other_one_has_a_reason(artifact: Artifact, here: Any) -> None:
    machine = here(onnx=0.004, openvino=0.001, pt2=0.002)
    chosen = taken(artifact)
    assert chosen.variant.name == "openvino-fp32"
    assert [result.taken for result in chosen.results] == [False, True, False]
    assert re.search(r"\b[345]\.\d times as slow as openvino-fp32", reasons(chosen)["onnx-fp32"])
    assert re.search(r"\b[12]\.\d times as slow as openvino-fp32", reasons(chosen)["pt2-fp32"])
    assert re.search(r"the fastest of 3 \([\d.]+ ms for 1, [\d.]+ ms for 32 rows\)", reasons(chosen)["openvino-fp32"])
    assert machine.left_open == 1


def test_a_variant_that_is_not_batchable_is_compared_by_what_it_answers_in_a_run(artifact: Artifact, here: Any) -> None:
    """One request in 1 ms, against 32 rows in about the same time, and against 32 rows in 300 ms."""
    for batched, winner in ((0.00098, "openvino-fp32"), (0.3, "onnx-fp32")):
        machine = here(onnx=0.001, openvino=batched)
        machine.whole = {"onnx"}
        assert taken(artifact).variant.name == winner


def test_of_two_equally_fast_variants_the_simpler_one_is_selected(artifact: Artifact, here: Any) -> None:
    for _ in range(5):
        machine = here(onnx=0.0004, openvino=0.0004)
        chosen = taken(artifact)
        assert chosen.variant.name == "onnx-fp32"
        assert "no faster than onnx-fp32" in reasons(chosen)["openvino-fp32"]
        assert machine.left_open == 1


def test_a_race_corrects_a_disturbed_warm_up(artifact: Artifact, here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = here(onnx=0.0002, openvino=0.0001)
    real = machine.bring_up

    def disturbed(format: str, *args: Any) -> ReadyBackend:
        ready = real(format, *args)
        return ready._replace(timings={1: 0.0002, 32: 0.0002})  # a disturbed measurement

    monkeypatch.setattr(variant_selection, "bring_up", disturbed)
    assert taken(artifact).variant.name == "openvino-fp32"


def test_a_single_variant_is_selected_without_a_measurement(tmp_path: Path, here: Any) -> None:
    machine = here(onnx=0.001)
    chosen = taken(write(tmp_path, "onnx", "pt2"), directory=tmp_path / "choices")
    assert machine.opened == ["onnx"]
    assert reasons(chosen)["pt2-fp32"] == "this machine cannot run pt2; see penstock doctor"
    assert "the only one that can be tried" in reasons(chosen)["onnx-fp32"]
    assert not (tmp_path / "choices").exists()


def test_a_later_load_opens_only_the_selected_variant(artifact: Artifact, here: Any, tmp_path: Path) -> None:
    machine = here(onnx=0.004, openvino=0.001, pt2=0.002)
    first = taken(artifact, directory=tmp_path / "choices")
    assert sorted(machine.opened) == sorted(ALL_FORMS)
    machine.opened.clear()
    again = taken(artifact, directory=tmp_path / "choices")
    assert machine.opened == ["openvino"]
    assert again.results == first.results


def test_other_options_mean_another_selection(artifact: Artifact, here: Any, tmp_path: Path) -> None:
    machine = here(onnx=0.004, openvino=0.001, pt2=0.002)
    taken(artifact, directory=tmp_path)
    machine.opened.clear()
    select_variant(artifact, BackendOptions(threads=1), BatchLimits(), VariantSelection(directory=tmp_path))
    assert len(machine.opened) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"schema": 99}',
        b'{"schema": 1, "artifact": "another", "thorough": true, "verdicts": [["onnx-fp32", true, ""]]}',
        b"\xff\xfe\x00",
        b"[" * 5000,
    ],
)
def test_a_damaged_selection_file_is_ignored(artifact: Artifact, here: Any, tmp_path: Path, content: bytes) -> None:
    here(onnx=0.004, openvino=0.001, pt2=0.002)
    taken(artifact, directory=tmp_path / "choices")
    (note,) = (tmp_path / "choices").iterdir()
    note.write_bytes(content)
    assert taken(artifact, directory=tmp_path / "choices").variant.name == "openvino-fp32"
    assert json.loads(note.read_bytes())["artifact"] == artifact.digest


def test_a_selection_file_with_an_unknown_variant_is_ignored(artifact: Artifact, here: Any, tmp_path: Path) -> None:
    here(onnx=0.004, openvino=0.001, pt2=0.002)
    taken(artifact, directory=tmp_path / "choices")
    (note,) = (tmp_path / "choices").iterdir()
    write_selection(note, artifact.digest, [SelectionResult("magic-fp32", True, "")], thorough=True)
    assert taken(artifact, directory=tmp_path / "choices").variant.name == "openvino-fp32"


def test_a_selection_that_cannot_be_written_is_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    write_selection(tmp_path / "file" / "choices" / "x.json", "digest", [SelectionResult("a", True, "")], thorough=True)
    assert read_selection(tmp_path / "file" / "choices" / "x.json", "digest") is None
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_selected_variant_that_no_longer_loads_is_replaced(artifact: Artifact, here: Any, tmp_path: Path) -> None:
    here(onnx=0.004, openvino=0.001, pt2=0.002)
    taken(artifact, directory=tmp_path / "choices")
    machine = here(onnx=0.004, openvino=GoldenMismatch("openvino is off"), pt2=0.001)
    chosen = taken(artifact, directory=tmp_path / "choices")
    assert chosen.variant.name == "pt2-fp32"
    assert reasons(chosen)["openvino-fp32"] == "openvino is off"
    assert machine.left_open == 1


def test_pytorch_is_not_imported_just_to_measure(tmp_path: Path, here: Any) -> None:
    artifact = write(tmp_path, "onnx", "pytorch")
    machine = here(onnx=0.004, pytorch=0.001)
    chosen = taken(artifact, directory=tmp_path / "choices")
    assert (chosen.variant.name, machine.opened) == ("onnx-fp32", ["onnx"])
    assert "would import PyTorch" in reasons(chosen)["pytorch-fp32"]
    assert "the first that works" in reasons(chosen)["onnx-fp32"]
    assert not (tmp_path / "choices").exists()
    thorough = taken(artifact, effort="all", directory=tmp_path / "choices")
    assert thorough.variant.name == "pytorch-fp32"
    machine.opened.clear()
    assert taken(artifact, directory=tmp_path / "choices").variant.name == "pytorch-fp32"
    assert machine.opened == ["pytorch"], "what was measured once is known from then on"


def test_pytorch_is_imported_if_nothing_else_runs(tmp_path: Path, here: Any) -> None:
    here(pytorch=0.001)
    assert taken(write(tmp_path, "onnx", "pytorch")).variant.name == "pytorch-fp32"


def test_no_further_variant_is_opened_after_the_selection_budget(
    artifact: Artifact, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = here(onnx=0.004, openvino=0.001, pt2=0.001)
    monkeypatch.setattr(variant_selection, "SELECTION_BUDGET_S", 0.0)
    chosen = taken(artifact)
    assert (chosen.variant.name, machine.opened) == ("onnx-fp32", ["onnx"])
    assert "the selection took longer than 0 s" in reasons(chosen)["pt2-fp32"]
    assert taken(artifact, effort="all").variant.name != "onnx-fp32"


def test_effort_first_selects_the_first_variant_that_works(artifact: Artifact, here: Any, tmp_path: Path) -> None:
    machine = here(onnx=GoldenMismatch("off"), openvino=0.004, pt2=0.001)
    chosen = taken(artifact, effort="first", directory=tmp_path / "choices")
    assert (chosen.variant.name, machine.opened) == ("openvino-fp32", ["onnx", "openvino"])
    assert not (tmp_path / "choices").exists()


def test_only_the_requested_variant_is_tried(artifact: Artifact, here: Any) -> None:
    machine = here(onnx=0.001, openvino=0.004, pt2=GoldenMismatch("pt2 is off"))
    chosen = taken(artifact, variant="openvino-fp32")
    assert (chosen.variant.name, machine.opened) == ("openvino-fp32", ["openvino"])
    assert reasons(chosen)["onnx-fp32"] == "openvino-fp32 was requested"
    with pytest.raises(GoldenMismatch, match="pt2 is off"):
        taken(artifact, variant="pt2-fp32")
    with pytest.raises(InvalidInput, match="has no variant 'aoti-fp32'"):
        taken(artifact, variant="aoti-fp32")
    here(onnx=0.001)
    with pytest.raises(UnsupportedFormat, match=r"m:1/pt2-fp32: this machine cannot run pt2"):
        taken(artifact, variant="pt2-fp32")


def test_the_requested_precision_takes_precedence_over_speed(tmp_path: Path, here: Any) -> None:
    model = linear(tmp_path / "model.onnx")
    variants = [VariantSource("onnx", precision, model) for precision in ("fp32", "int8", "fp16")]
    artifact = write_artifact(
        tmp_path / "three",
        name="m",
        version="1",
        task=TaskEntry(kind="vector-classification", config={}),
        signature=SIGNATURE,
        variants=variants,
        golden=None,
        card="",
    )
    here(onnx=0.001)
    chosen = select_variant(artifact, BackendOptions(precision="int8"), BatchLimits(), VariantSelection())
    assert chosen.variant.name == "onnx-int8"
    assert reasons(chosen)["onnx-fp32"] == "onnx-int8 has the requested precision"
    assert reasons(chosen)["onnx-fp16"] == "its precision is fp16; int8 was requested"


def variants_of(tmp_path: Path, *precisions: str) -> Artifact:
    model = linear(tmp_path / "model.onnx")
    return write_artifact(
        tmp_path / "-".join(precisions),
        name="m",
        version="1",
        task=TaskEntry(kind="vector-classification", config={}),
        signature=SIGNATURE,
        variants=[VariantSource("onnx", precision, model, name=f"v{n}") for n, precision in enumerate(precisions)],
        golden=None,
        card="",
    )


def test_an_artifact_without_fp32_runs_in_a_precision_that_it_has(tmp_path: Path, here: Any) -> None:
    machine = here(onnx=0.001)
    only = taken(variants_of(tmp_path, "int8", "int8"), effort="all")
    assert (only.variant.precision, only.measured, machine.opened) == ("int8", 2, ["onnx", "onnx"])
    assert sorted(result.variant for result in only.results) == ["v0", "v1"]
    mixed = variants_of(tmp_path, "fp16", "int8")
    assert taken(mixed, effort="all").measured == 2
    requested = select_variant(mixed, BackendOptions(precision="int8"), BatchLimits(), VariantSelection())
    assert (requested.variant.name, requested.measured) == ("v1", 1)


def test_int8_is_no_fallback_for_an_fp32_variant_that_does_not_run(
    tmp_path: Path, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here(onnx=0.001)
    artifact = variants_of(tmp_path, "fp32", "int8")
    needy = artifact.variants[0].model_copy(update={"requires": ("avx9000",)})
    manifest = artifact.manifest.model_copy(update={"variants": (needy, artifact.variants[1])})
    with pytest.raises(UnsupportedFormat, match=r"v0: it needs avx9000.*v1: its precision is int8; fp32 was requested"):
        taken(Artifact(artifact.path, manifest, artifact.digest))


def test_a_variant_for_another_cpu_is_not_opened_and_the_missing_flag_is_named(
    tmp_path: Path, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = write(tmp_path, "onnx", "aoti")
    needy = artifact.variants[1].model_copy(update={"requires": ("avx9000", "sse2")})
    manifest = artifact.manifest.model_copy(update={"variants": (artifact.variants[0], needy)})
    other = Artifact(artifact.path, manifest, artifact.digest)
    monkeypatch.setattr(devices, "cpu_flags", lambda: frozenset({"sse2"}))
    machine = here(onnx=0.004, aoti=0.001)
    chosen = taken(other)
    assert machine.opened == ["onnx"]
    assert reasons(chosen)["aoti-fp32"] == "it needs avx9000, which this machine does not have"
    alone = Artifact(artifact.path, manifest.model_copy(update={"variants": (needy,)}), artifact.digest)
    with pytest.raises(UnsupportedFormat, match=r"m:1: .*aoti-fp32: it needs avx9000"):
        taken(alone)


def test_an_untrusted_variant_is_skipped_without_a_warning(
    artifact: Artifact, here: Any, caplog: pytest.LogCaptureFixture
) -> None:
    here(onnx=0.004, openvino=0.002, pt2=Untrusted("pt2 needs trust code"))
    chosen = taken(artifact)
    assert reasons(chosen)["pt2-fp32"] == "pt2 needs trust code"
    assert chosen.failures == ()
    assert not caplog.records


def test_an_altered_file_stops_the_selection_and_leaves_nothing_open(artifact: Artifact, here: Any) -> None:
    machine = here(onnx=0.004, openvino=0.001, pt2=0.002)
    path = artifact.variant_path(artifact.variants[1])
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match="openvino"):
        taken(artifact)
    assert machine.left_open == 0


def test_a_loaded_model_has_its_selection_results(tmp_path: Path) -> None:
    artifact = write(tmp_path, "onnx")
    model = load_artifact(artifact, EngineOptions())
    (result,) = model.info.choice
    assert (result.variant, result.taken) == ("onnx-fp32", True)
    model.close()


def test_serving_onnx_does_not_import_pytorch(tmp_path: Path) -> None:
    """In a separate process, since other tests have imported it here."""
    import subprocess

    path = write(tmp_path, "onnx", "pytorch").path
    code = (
        "import sys\n"
        "from penstock.artifacts.artifact import Artifact\n"
        "from penstock.engine.loading.load import load_artifact\n"
        "from penstock.options import EngineOptions\n"
        f"model = load_artifact(Artifact.open({str(path)!r}), EngineOptions())\n"
        "print(model.variant, 'torch' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["onnx-fp32", "False"]


def test_known_results_open_no_file(artifact: Artifact, here: Any, tmp_path: Path) -> None:
    machine = here(onnx=0.004, openvino=0.001)
    how = VariantSelection(directory=tmp_path / "choices")
    before = known_results(artifact, BackendOptions(), BatchLimits(), how)
    assert [(result.variant, result.taken) for result in before] == [
        ("onnx-fp32", True),
        ("openvino-fp32", False),
        ("pt2-fp32", False),
    ]
    assert before[0].reason == "tried first; not measured on this machine"
    assert machine.opened == []
    chosen = select_variant(artifact, BackendOptions(), BatchLimits(), how)
    assert known_results(artifact, BackendOptions(), BatchLimits(), how) == chosen.results
