from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from pydantic import ValidationError

from penstock_hydraulics.diagnosis.schemas import MAX_SAMPLES, Health, PredictionRequest
from penstock_hydraulics.machine.states import ANOMALIES

DATA = {"pressure_pump_main": [100.0, 101.0]}


def fault_of(**fields):
    with pytest.raises(ValidationError) as caught:
        PredictionRequest(**{"equipment_id": "exc_001", "sensor_data": DATA, **fields})
    (fault,) = caught.value.errors()
    return ".".join(str(part) for part in fault["loc"]), fault["msg"]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([1.0, float("nan")], "finite number"),
        ([1.0, float("inf")], "finite number"),
        (["12"], "valid number"),
        ([True], "valid number"),
        ([None], "valid number"),
        ([], "at least 1 item"),
        ("100", "valid list"),
        ([1.0] * (MAX_SAMPLES + 1), "at most 60000 items"),
        (np.ones((2, 2)), "valid number"),
        (np.array(["a"]), "valid number"),
    ],
)
def test_invalid_samples_are_refused_with_their_sensor(samples, message):
    where, error = fault_of(sensor_data={"temperature_tank": samples})
    assert where.startswith("sensor_data.temperature_tank")
    assert message in error


@pytest.mark.parametrize(
    ("fields", "where", "message"),
    [
        ({"sensor_data": {}}, "sensor_data", "at least 1 item"),
        ({"sensor_data": {"": [1.0]}}, "sensor_data", "at least 1 character"),
        ({"equipment_id": "a/b"}, "equipment_id", "1 to 128 letters, digits and _ . : -"),
        ({"equipment_id": "x" * 129}, "equipment_id", "1 to 128 letters"),
        ({"sampling_rate_hz": 0}, "sampling_rate_hz", "from 0.1 to 1000 Hz"),
        ({"sampling_rate_hz": float("nan")}, "sampling_rate_hz", "from 0.1 to 1000 Hz"),
        (
            {"sampling_rate_hz": {"flow_circ_pump": "fast"}},
            "sampling_rate_hz",
            "flow_circ_pump: a sampling rate must be",
        ),
        ({"sampling_rate_hz": [1.0]}, "sampling_rate_hz", "from 0.1 to 1000 Hz"),
        ({"topology": 3}, "topology", "name of a template"),
        ({"timestamp": datetime.now(UTC) + timedelta(days=2)}, "timestamp", "a day in the future"),
        ({"timestamp": datetime(1969, 12, 31, tzinfo=UTC)}, "timestamp", "before 1970"),
        ({"timestamp": datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))}, "timestamp", "before 1970"),
        ({"timestamp": "yesterday"}, "timestamp", "valid datetime"),
        ({"sensors": 1}, "sensors", "Extra inputs"),
    ],
)
def test_every_other_field_has_a_clear_error(fields, where, message):
    found, error = fault_of(**fields)
    assert found.startswith(where)
    assert message in error


def test_arrays_tuples_and_lists_give_the_same_readings():
    given = [np.array([1.0, 2.0], np.float32), (1.0, 2.0), [1, 2]]
    read = [PredictionRequest(equipment_id="a", sensor_data={"x": each}).sensor_data["x"] for each in given]
    assert read == [[1.0, 2.0]] * 3


def test_a_time_without_a_zone_is_utc():
    body = {"equipment_id": "a", "sensor_data": DATA, "timestamp": "2024-05-01T12:00:00"}
    assert PredictionRequest.model_validate_json(json.dumps(body)).timestamp == datetime(2024, 5, 1, 12, tzinfo=UTC)


def test_json_and_python_read_the_same_request():
    fields = {"equipment_id": "a", "sensor_data": DATA, "sampling_rate_hz": {"x": 10}, "topology": "zema_rig"}
    assert PredictionRequest.model_validate_json(json.dumps(fields)) == PredictionRequest(**fields)


def test_answers_built_without_validation_serialise_like_validated_ones():
    fields = {"score": 0.9, "status": "healthy", "basis": "measured"}
    built, checked = Health.build(**fields), Health(**fields)
    assert built.model_dump_json() == checked.model_dump_json()
    assert built == checked.model_copy()


def test_the_schema_lists_the_nine_faults():
    schema = json.dumps(PredictionRequest.model_json_schema())
    assert "sampling_rate_hz" in schema
    assert len(ANOMALIES) == 9


def test_a_time_in_python_can_be_iso_text():
    read = PredictionRequest(equipment_id="a", sensor_data=DATA, timestamp="2024-05-01T12:00:00Z")
    assert read.timestamp == datetime(2024, 5, 1, 12, tzinfo=UTC)


def test_a_rate_can_be_a_numpy_number():
    read = PredictionRequest(
        equipment_id="a", sensor_data=DATA, sampling_rate_hz={"x": np.float32(10), "y": np.int64(2)}
    )
    assert read.sampling_rate_hz == {"x": 10.0, "y": 2.0}


def test_the_id_of_a_machine_is_described_by_its_pattern():
    assert "pattern" in PredictionRequest.model_json_schema()["properties"]["equipment_id"]
