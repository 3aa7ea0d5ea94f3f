"""One way of an option: defined once, it arrives in a backend from every place it can be set."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from linear_models import linear

from penstock import InferenceConfig, ModelManager, Predictor, Settings
from penstock.engine.loading.load_overrides import LoadKeywords
from penstock.engine.predictor.predictor import PredictorKeywords
from penstock.errors import ConfigError
from penstock.options import BackendKeywords, BackendOptions, EngineKeywords, EngineOptions, check_names
from penstock.settings import NAMES

SOURCE = Path(__file__).parents[1] / "src" / "penstock"

MADE_UP = '    made_up: Whole = option(0, "A made-up option.", ge=0)\n'

EVERY_DOOR = """
import asyncio, sys
from penstock import InferenceConfig, InferenceEngine, ModelManager, Predictor
from penstock.backends.onnx.backend import OnnxBackend
from penstock.errors import ConfigError
from penstock.settings import load_settings

received = []
opened = OnnxBackend.open.__func__

@classmethod
def recording(cls, file, options):
    received.append(options.made_up)
    return opened(cls, file, options)

OnnxBackend.open = recording

async def served(config):
    engine = InferenceEngine(config)
    await engine.start()
    await engine.close()

model = sys.argv[1]
asyncio.run(served(load_settings({"model_path": model}).settings))
asyncio.run(served(InferenceConfig(model_path=model, made_up=2)))
Predictor(model, made_up=3).close()
manager = ModelManager(made_up=4)
manager.load_model(model)
manager.clear_cache()
manager.load_model(model, made_up=5)
print(*dict.fromkeys(received))
for refused in (lambda: InferenceConfig(made_up=-1), lambda: load_settings(environ={"PENSTOCK_MADE_UP": "-1"})):
    try:
        refused()
    except ConfigError as error:
        print(error)
print("A made-up option." in Predictor.__init__.__doc__)
"""


@pytest.fixture
def with_a_made_up_option(tmp_path: Path) -> Path:
    """The sources with one more line."""
    shutil.copytree(SOURCE, tmp_path / "src" / "penstock", ignore=shutil.ignore_patterns("__pycache__"))
    options = tmp_path / "src" / "penstock" / "options.py"
    before, field, after = options.read_text(encoding="utf-8").partition("    shared_threads: bool = option(")
    assert field
    options.write_text(before + MADE_UP + field + after, encoding="utf-8")
    return tmp_path / "src"


def test_an_option_defined_in_one_line_reaches_a_backend_from_every_entry_point(
    with_a_made_up_option: Path, tmp_path: Path
) -> None:
    environ = {**os.environ, "PYTHONPATH": str(with_a_made_up_option), "PENSTOCK_MADE_UP": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", EVERY_DOOR, str(linear(tmp_path / "m.onnx"))],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "1 2 3 4 5",
        "made_up: -1 should be greater than or equal to 0",
        "PENSTOCK_MADE_UP in the environment is '-1'; it should be greater than or equal to 0",
        "True",
    ]


@pytest.mark.parametrize(
    ("keywords", "fields"),
    [
        (BackendKeywords, set(BackendOptions.model_fields)),
        (EngineKeywords, set(EngineOptions.model_fields) - {"registry"}),
    ],
)
def test_type_checkers_know_every_option(keywords: Any, fields: set[str]) -> None:
    assert set(keywords.__annotations__) == fields


def test_every_option_is_a_setting() -> None:
    assert set(EngineOptions.model_fields) < set(Settings.model_fields) == set(NAMES)


@pytest.mark.parametrize("call", [ModelManager.__init__, ModelManager.load_model, Predictor.__init__])
def test_help_documents_each_option_of_a_call(call: Any) -> None:
    names = {
        ModelManager.__init__: EngineKeywords,
        ModelManager.load_model: LoadKeywords,
        Predictor.__init__: PredictorKeywords,
    }[call].__annotations__
    documentation = inspect.getdoc(call) or ""
    assert [name for name in names if name not in documentation] == []


def test_an_option_with_an_unknown_name_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    model = linear(tmp_path / "m.onnx")
    for refused in (
        lambda: InferenceConfig(batchsize=1),  # type: ignore[call-arg]
        lambda: ModelManager(tmp_path, batchsize=1),  # type: ignore[call-arg]
        lambda: Predictor(model, registry=tmp_path, batchsize=1),  # type: ignore[call-arg]
    ):
        with pytest.raises(TypeError, match=r"\(\) has no option 'batchsize'; did you mean batch_size\?"):
            refused()
    with pytest.raises(TypeError, match=r"load_model\(\) has no option 'devise'; did you mean device\?"):
        ModelManager(tmp_path).load_model(model, devise="cpu")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 0}, "batch_size: 0 should be greater than or equal to 1"),
        ({"batch_size": "many"}, "batch_size: 'many' should be a whole number"),
        ({"device": "tpu"}, "device: 'tpu' should be auto, cpu, cuda, cuda:N or mps"),
        ({"trust": "all"}, "trust: 'all' should be 'data', 'code' or 'native'"),
        ({"precision": "fp99"}, "precision: 'fp99' should be 'fp32', 'fp16', 'bf16' or 'int8'"),
        ({"max_bytes": "4XB"}, "max_bytes: '4XB' should be a size such as 16MiB, 4GB or a number of bytes"),
        ({"max_bytes": 0}, "max_bytes: 0 should be greater than or equal to 1"),
        ({"models": {"m": {"batch_size": 0}}}, "models.m.batch_size: 0 should be greater than or equal to 1"),
        ({"choosing": "slow"}, "choosing: 'slow' should be 'light', 'all' or 'first'"),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_line_that_names_the_field(
    options: dict[str, Any], sentence: str
) -> None:
    for make in (InferenceConfig, ModelManager, EngineOptions().override):
        with pytest.raises(ConfigError) as refused:
            make(**options)
        assert str(refused.value) == sentence


def test_a_secret_is_not_shown_where_it_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        Settings(admin_key="hunter2")
    assert str(refused.value) == "admin_key: the value should have at least 16 characters"


def test_an_override_replaces_its_fields_only_and_keeps_the_kind_of_value() -> None:
    settings = Settings(port=9000, use_fp16=True)
    changed = settings.override(precision="fp32", device="CPU")
    assert isinstance(changed, Settings)
    assert (changed.port, changed.precision, changed.device) == (9000, "fp32", "cpu")
    assert (settings.precision, settings.device) == ("fp16", "auto")


@pytest.mark.parametrize(
    ("given", "precision"),
    [
        ({}, "fp32"),
        ({"use_fp16": True}, "fp16"),
        ({"use_fp16": True, "precision": "int8"}, "int8"),
        ({"use_fp16": False, "precision": "bf16"}, "bf16"),
    ],
)
def test_use_fp16_selects_half_precision_unless_precision_is_set(given: Any, precision: str) -> None:
    assert Settings(**given).precision == precision


def test_a_name_without_a_near_one_refers_to_the_list() -> None:
    with pytest.raises(TypeError, match=r"has no option 'zzzz'; docs/settings\.md lists them all"):
        check_names("Predictor", ["zzzz"], ["device"])
