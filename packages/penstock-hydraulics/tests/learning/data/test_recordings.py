from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from penstock.errors import InvalidInput
from penstock_hydraulics.learning.data.recordings import ROWS, SENSORS, load, rows_of

PROFILE = np.array([[100, 100, 0, 130, 0], [100, 100, 0, 130, 0], [20, 73, 2, 90, 1]])
RATES = {"PS": 100, "EPS": 100, "FS": 10, "TS": 1, "VS": 1}


@pytest.fixture
def columns() -> dict[str, np.ndarray]:
    """Three cycles of every sensor at the rates of the data set."""
    random = np.random.default_rng(0)
    return {name: random.normal(50, 5, (3, 60 * RATES[name.rstrip("123456")])) for name in SENSORS}


@pytest.fixture
def texts(columns, tmp_path) -> Path:
    """The directory of the unpacked archive, with one compressed file."""
    directory = tmp_path / "uci"
    directory.mkdir()
    np.savetxt(directory / "profile.txt", PROFILE, fmt="%d", delimiter="\t")
    for name, values in columns.items():
        np.savetxt(directory / f"{name}.txt", values, delimiter="\t", fmt="%.6f")
    packed = directory / "TS1.txt"
    (directory / "TS1.txt.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    return directory


def test_text_files_are_averaged_over_each_second(texts, columns):
    recordings = load(texts)
    assert recordings.readings.shape == (3, len(ROWS), 60)
    pressure = columns["PS1"].reshape(3, 60, 100).mean(axis=2)
    assert recordings.readings[:, ROWS.index((0, "pressure"))] == pytest.approx(pressure, abs=1e-4)
    flow = columns["FS1"].reshape(3, 60, 10)
    assert recordings.readings[:, ROWS.index((0, "flow_max"))] == pytest.approx(flow.max(axis=2), abs=1e-4)
    assert recordings.readings[:, ROWS.index((0, "flow_min"))] == pytest.approx(flow.min(axis=2), abs=1e-4)


def test_labels_count_from_the_best_level_and_a_run_ends_when_a_state_changes(texts):
    recordings = load(texts)
    assert recordings.labels.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 3, 2, 3]]
    assert recordings.runs.tolist() == [0, 0, 1]
    assert recordings.settled.tolist() == [True, True, False]


def test_an_npz_of_the_same_recordings_reads_the_same(texts, columns, tmp_path):
    labels = dict(zip(("y_cooler", "y_valve", "y_pump_leak", "y_accumulator", "y_stable"), PROFILE.T, strict=True))
    np.savez(tmp_path / "all.npz", **columns, **labels)
    one, other = load(texts), load(tmp_path / "all.npz")
    assert one.readings == pytest.approx(other.readings, abs=1e-4)
    assert np.array_equal(one.labels, other.labels)


def test_a_cycle_can_be_sent_as_a_request(texts):
    window = load(texts).window(2)
    assert list(window) == list(SENSORS.values())
    assert all(len(values) == 60 for values in window.values())


def test_a_flow_sensor_gives_three_rows_and_an_unknown_one_is_named():
    assert rows_of(("flow_circ_pump",)).sum() == 3
    assert rows_of(tuple(SENSORS.values())).all()
    with pytest.raises(InvalidInput, match="pressure_pump: unknown sensor"):
        rows_of(("pressure_pump",))


def test_a_missing_or_broken_file_is_named(texts, tmp_path):
    with pytest.raises(InvalidInput, match="nowhere: no such file"):
        load(tmp_path / "nowhere")
    (texts / "PS3.txt").write_text("1 2 three\n")
    with pytest.raises(InvalidInput, match=r"PS3\.txt: not a table of numbers"):
        load(texts)
    (texts / "PS3.txt").unlink()
    with pytest.raises(InvalidInput, match=r"PS3\.txt is missing"):
        load(texts)


def test_inconsistent_files_are_refused(texts):
    np.savetxt(texts / "VS1.txt", np.zeros((2, 60)))
    with pytest.raises(InvalidInput, match="VS1 must hold 3 cycles"):
        load(texts)
    np.savetxt(texts / "VS1.txt", np.full((3, 60), np.nan))
    with pytest.raises(InvalidInput, match="NaN or infinite values"):
        load(texts)
    np.savetxt(texts / "VS1.txt", np.zeros((3, 60)))
    np.savetxt(texts / "profile.txt", np.where(PROFILE == 73, 74, PROFILE))
    with pytest.raises(InvalidInput, match="unknown level 74 of valve_condition"):
        load(texts)


def test_another_npz_file_is_refused(tmp_path):
    (tmp_path / "other.npz").write_bytes(b"PK no")
    with pytest.raises(InvalidInput, match="not an npz file"):
        load(tmp_path / "other.npz")
    np.savez(tmp_path / "empty.npz", a=np.zeros(3))
    with pytest.raises(InvalidInput, match="the array y_cooler is missing"):
        load(tmp_path / "empty.npz")


@pytest.mark.skipif("PENSTOCK_HYDRAULICS_DATA" not in os.environ, reason="PENSTOCK_HYDRAULICS_DATA names no recordings")
def test_the_real_recordings_have_the_known_properties_of_the_rig():
    recordings = load(Path(os.environ["PENSTOCK_HYDRAULICS_DATA"]))
    sound = recordings.readings[(recordings.labels == 0).all(axis=1) & recordings.settled]
    assert sound[:, ROWS.index((0, "pressure")), 1:9].mean() == pytest.approx(191, abs=4)
    outlet = ROWS.index((7, "temperature"))
    by_level = [recordings.readings[recordings.labels[:, 0] == level][:, outlet].mean() for level in range(3)]
    assert by_level == pytest.approx([31, 40, 51], abs=3)
    assert recordings.in_settled_runs.sum() >= 1000


def _damaged(path: Path) -> Path:
    """A valid npz container with a damaged array."""
    np.savez_compressed(path, y_cooler=np.arange(1000))
    data = bytearray(path.read_bytes())
    start = data.index(b"y_cooler.npy") + 40
    data[start : start + 60] = bytes(60)
    path.write_bytes(data)
    return path


def test_a_damaged_or_unsupported_file_is_named(texts, tmp_path):
    with pytest.raises(InvalidInput, match=r"broken\.npz: not an npz file of the recordings"):
        load(_damaged(tmp_path / "broken.npz"))
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(InvalidInput, match=r"one\.npy: not an npz file of the recordings"):
        load(tmp_path / "one.npy")
    whole = gzip.compress((texts / "PS3.txt").read_bytes())
    (texts / "PS3.txt").unlink()
    (texts / "PS3.txt.gz").write_bytes(whole[:-12])
    with pytest.raises(InvalidInput, match=r"PS3\.txt\.gz: not a table of numbers"):
        load(texts)


@pytest.mark.parametrize(
    ("level", "message"), [(np.nan, "NaN or infinite values"), (3.7, "unknown level 3.7"), (1e300, "unknown level 1e")]
)
def test_an_invalid_profile_is_refused(texts, level, message):
    profile = PROFILE.astype(float)
    profile[0, 0] = level
    np.savetxt(texts / "profile.txt", profile)
    with pytest.raises(InvalidInput, match=message):
        load(texts)


def test_files_without_a_cycle_are_refused(texts):
    (texts / "profile.txt").write_text("")
    with pytest.raises(InvalidInput, match="the profile must hold 5 columns"):
        load(texts)
    np.savetxt(texts / "profile.txt", PROFILE)
    np.savetxt(texts / "PS3.txt", np.zeros((3, 60)) + 1e300)
    with pytest.raises(InvalidInput, match="NaN or infinite values"):
        load(texts)
