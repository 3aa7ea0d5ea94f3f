"""The fast decoder, Pydantic and batch items agree: the same request, or an error of the same field."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hydraulic_models import SIGNATURE, task_config
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from penstock.gateway.native import decoding
from penstock.gateway.native import fast_json as arrays
from penstock.gateway.native.decoding import read_json
from penstock_hydraulics.diagnosis.schemas import PredictionRequest
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.task import HydraulicDiagnostics

RIG = TEMPLATES["zema_rig"]
TASK = HydraulicDiagnostics(task_config(), SIGNATURE)
WAYS = [arrays.read_orjson] if arrays.simdjson is None else [arrays.read_orjson, arrays.read_simdjson]

NUMBERS = st.one_of(st.floats(0, 300), st.integers(-3, 300), st.sampled_from([True, None, "1", [1.0], 2**70]))
TIMES_TRIED = (
    *("2026-11-21T08:00:00Z", "2026-11-21T08:00:00", "2026-11-21", "20261121T080000", "2026-W47-6", "1700000000"),
    *("", " 2026-11-21T08:00:00Z", 5, 1e9),
)
TIMES = st.sampled_from(TIMES_TRIED)
BODIES = st.fixed_dictionaries(
    {
        "equipment_id": st.one_of(st.just("a"), st.text(max_size=3)),
        "sensor_data": st.dictionaries(
            st.sampled_from([*RIG.expected_sensors, "x"]),
            st.one_of(st.lists(st.floats(0, 300), min_size=60, max_size=60), st.lists(NUMBERS, max_size=4), NUMBERS),
            max_size=3,
        ),
    },
    optional={
        "sampling_rate_hz": st.one_of(NUMBERS, st.dictionaries(st.sampled_from(RIG.expected_sensors), NUMBERS)),
        "topology": st.one_of(
            st.sampled_from([*TEMPLATES, None, 3]),
            st.just({"components": [{"id": "p", "type": "pump"}, {"id": "t", "type": "tank"}], "edges": [["p", "t"]]}),
        ),
        "timestamp": TIMES,
        "model_version": st.sampled_from(["v1", None, 3]),
    },
)


def verdict(ask):
    """The model's inputs and the prepared request, or the faulty fields."""
    try:
        request = ask()
        inputs = TASK.preprocess(request)
    except InvalidInput as error:
        return tuple(fault.field for fault in error.errors) or str(error)
    rest = {name: value for name, value in request.__dict__.items() if name != "sensor_data"}
    return {name: array.tolist() for name, array in inputs.items()}, rest, request._prepared.warnings


def raised(found):
    if isinstance(found, InvalidInput):
        raise found
    return found


@settings(max_examples=300, deadline=None)
@given(fields=BODIES)
@example(fields={"equipment_id": "a", "sensor_data": {"pressure_pump_main": [-1.0] * 60}})
@example(fields={"equipment_id": "a", "sensor_data": {"pressure_pump_main": [-0.1] * 60}})
@example(fields={"equipment_id": "a", "sensor_data": {"pressure_pump_main": [1.0]}, "timestamp": "2026-11-21"})
def test_all_decoders_agree_on_a_request(fields):
    body = json.dumps(fields).encode()
    slow = verdict(lambda: decoding.decode_slowly(PredictionRequest, body))
    original = arrays.read
    try:
        for way in WAYS:
            arrays.read = way
            assert verdict(lambda: read_json(TASK, body)) == slow
    finally:
        arrays.read = original
    assert verdict(lambda: raised(decoding.Batch(b'{"requests": [%b]}' % body).items(TASK)[0])) == slow


@pytest.mark.skipif(arrays.simdjson is None, reason="orjson does not tell of a name that is given twice")
def test_the_fast_decoder_returns_an_ordinary_request(monkeypatch):
    monkeypatch.setattr(decoding, "decode_slowly", lambda *_: pytest.fail("took the slow way"))
    samples = np.linspace(100, 101, 60).round(3).tolist()
    fields = {
        "equipment_id": "a",
        "sensor_data": {"pressure_pump_main": samples, "flow_pump_main": samples * 10},
        "sampling_rate_hz": {"flow_pump_main": 10.0},
        "topology": "zema_rig",
        "timestamp": "2026-11-20T08:00:00Z",
    }
    request = read_json(TASK, json.dumps(fields).encode())
    assert list(request.sensor_data["pressure_pump_main"]) == samples
    assert request.model_dump(mode="json", exclude_unset=True) == fields
    assert PredictionRequest.model_validate_json(request.model_dump_json()) == PredictionRequest(**fields)


def test_only_finite_readings_reach_the_model():
    request = PredictionRequest.model_construct(
        equipment_id="a", sensor_data={"pressure_pump_main": [1.0, float("nan")]}, sampling_rate_hz=1.0, topology=None
    )
    with pytest.raises(InvalidInput, match=r"pressure_pump_main\[1\]: NaN is not a reading"):
        TASK.preprocess(request)


@pytest.mark.parametrize("time", TIMES_TRIED)
def test_all_decoders_agree_on_a_time(time):
    body = json.dumps({"equipment_id": "a", "sensor_data": {"pressure_pump_main": [1.0]}, "timestamp": time}).encode()
    assert verdict(lambda: read_json(TASK, body)) == verdict(lambda: decoding.decode_slowly(PredictionRequest, body))
