"""`model-config.yaml`: a wrong value is a warning, an unknown key passes through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from model_archives import CONFIG, MODEL, manifest, zipped

from penstock.errors import IntegrityError, UnsupportedFormat
from penstock.torchserve.archives.archive import open_archive
from penstock.torchserve.model_config import RULES, model_config_of, parse_model_config

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 2**40), st.floats(allow_nan=False), st.text("ab1", max_size=3),
    st.lists(st.integers(-1, 3), max_size=2), st.sampled_from(["cpu", "gpu", "pp", "custom"]), st.just({"a": 1}),
)  # fmt: skip


def test_what_the_server_reads_is_checked_and_the_rest_passes_through() -> None:
    found = parse_model_config(CONFIG, "m.yaml")
    assert found.values == {"minWorkers": 1, "maxWorkers": 2, "batchSize": 8, "maxBatchDelay": 20}
    assert found.document["handler"] == {"profile": True}
    assert (found.warnings, found.whole("batchSize"), found.whole("jobQueueSize")) == ((), 8, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("batchSize: '8'", "batchSize in m.yaml is '8', not a whole number of at least 1; the default is used"),
        ("batchSize: true", "batchSize in m.yaml is 'True', not a whole number"),
        ("minWorkers: -1", "minWorkers in m.yaml is '-1', not a whole number of at least 0"),
        ("useJobTicket: 1", "useJobTicket in m.yaml is '1', not true or false"),
        ("deviceType: tpu", "deviceType in m.yaml is 'tpu', not one of cpu, gpu"),
        ("deviceIds: [0, a]", "deviceIds in m.yaml is \"[0, 'a']\", not a list of numbers of devices"),
        ("torchrun: 4", "torchrun in m.yaml is '4', not a mapping"),
    ],
)
def test_a_wrong_value_is_a_warning_and_the_default(text: str, says: str) -> None:
    found = parse_model_config(text, "m.yaml")
    assert found.values == {}
    assert [warning.startswith(says) for warning in found.warnings] == [True]


def test_more_workers_at_least_than_at_most_is_a_warning() -> None:
    found = parse_model_config("minWorkers: 4\nmaxWorkers: 2", "m.yaml")
    assert found.values == {"minWorkers": 4, "maxWorkers": 4}
    assert found.warnings == ("maxWorkers in m.yaml is less than minWorkers, which is used for both",)


@given(st.dictionaries(st.sampled_from([*RULES, "pt2", "micro_batching"]), VALUES))
def test_every_known_key_is_a_value_or_a_warning(document: dict[str, Any]) -> None:
    found = parse_model_config(yaml.safe_dump(document), "m.yaml")
    assert found.document == document
    known = document.keys() & RULES.keys()
    warned = {key for key in known if any(w.startswith(f"{key} in m.yaml is ") for w in found.warnings)}
    assert found.values.keys() | warned == known
    ours = {key: found.values[key] for key in found.values if key != "maxWorkers"}
    assert ours == {key: document[key] for key in ours}
    assert not (found.values.keys() & warned) or "maxWorkers" in warned


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system ['true']", "a: !!java.net.URL ['http://x']", "a: [", "- 1", "a: !!set 1"]
)
def test_tags_and_what_is_no_mapping_are_refused_by_name(text: str) -> None:
    with pytest.raises(UnsupportedFormat, match=r"^m\.yaml: "):
        parse_model_config(text, "m.yaml")


def test_an_empty_file_says_nothing() -> None:
    assert parse_model_config("\n", "m.yaml").document == {}


def test_it_is_read_from_an_archive(tmp_path: Path) -> None:
    named = {**MODEL, "MAR-INF/MANIFEST.json": manifest(configFile="c.yaml")}
    archive = open_archive(zipped(tmp_path / "m.mar", {**named, "c.yaml": CONFIG.encode()}))
    assert model_config_of(archive).whole("batchSize") == 8
    assert model_config_of(open_archive(zipped(tmp_path / "m.mar", named))).document == {}
    archive = open_archive(zipped(tmp_path / "m.mar", {**named, "c.yaml": b"a: \xff"}))
    with pytest.raises(IntegrityError, match=r"m\.mar: 'c\.yaml' is not UTF-8 text; save it as UTF-8"):
        model_config_of(archive)
    archive = open_archive(zipped(tmp_path / "m.mar", {**named, "c.yaml": b"a: !!python/name:os.system ''"}))
    with pytest.raises(UnsupportedFormat, match=r"m\.mar: c\.yaml: it is not YAML"):
        model_config_of(archive)
