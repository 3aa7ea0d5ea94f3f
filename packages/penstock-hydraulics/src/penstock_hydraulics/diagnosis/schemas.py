"""Request and response of a diagnosis as Pydantic models."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from numbers import Real
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    GetCoreSchemaHandler,
    PlainValidator,
    PrivateAttr,
    TypeAdapter,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema, to_json

from penstock.errors import printable
from penstock.tasks.base import TimedResponse
from penstock_hydraulics.machine.states import ANOMALIES
from penstock_hydraulics.machine.topology import Topology

MAX_SAMPLES = 60_000
"""Maximum number of samples of one sensor: a window of 60 s at 1 kHz."""
MAX_SENSORS = 512
"""More than 64 components with every quantity can have."""
MAX_RATE_HZ = 1000.0
MIN_RATE_HZ = 0.1
_MAX_SHOWN = 80
_MAX_AHEAD = timedelta(days=1)
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
"""Earlier timestamps come from a clock that was reset or never set."""


class _AcceptArrays:
    """Accepts JSON arrays, and in Python any one-dimensional array or sequence of numbers.

    JSON uses the inner schema directly: a wrapping validator would cost a Python call per sensor. The platform's fast
    decoder returns an `array.array` of doubles, which is kept.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        inner = handler(source)
        python = core_schema.no_info_wrap_validator_function(_samples, inner)
        plain = core_schema.plain_serializer_function_ser_schema(list)
        return core_schema.json_or_python_schema(inner, python, serialization=plain)


def _samples(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
    if type(value) is array and value.typecode == "d" and len(value):
        if len(value) > MAX_SAMPLES:  # before it becomes a list, which takes four times the memory
            sizes = {"field_type": "List", "max_length": MAX_SAMPLES, "actual_length": len(value)}
            raise PydanticKnownError("too_long", sizes)
        return value
    if isinstance(value, tuple):
        return inner(list(value))
    tolist = getattr(value, "tolist", None)
    return inner(tolist() if callable(tolist) else value)


_Time = TypeAdapter(datetime, config=ConfigDict(strict=True))


class _AcceptIsoText:
    """Accepts ISO 8601 text in Python too, so that a request from a parsed file is equal to one over HTTP."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        inner = handler(source)
        python = core_schema.no_info_before_validator_function(_time, inner)
        return core_schema.json_or_python_schema(inner, python)


def _time(value: Any) -> Any:
    try:
        return _Time.validate_json(to_json(value)) if isinstance(value, str) else value
    except ValueError:  # Pydantic reports the error
        return value


class _ErrorMessage:
    """Replaces the error message of a pattern by a sentence; the JSON schema keeps the pattern."""

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.custom_error_schema(
            handler(source), custom_error_type="form", custom_error_message=self._sentence
        )


Number: TypeAlias = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Samples: TypeAlias = Annotated[
    list[Number],
    FailFast(),  # report one error, not 60,000
    Field(min_length=1, max_length=MAX_SAMPLES),
    _AcceptArrays(),
]
SensorName: TypeAlias = Annotated[str, Field(min_length=1, max_length=128)]
EquipmentId: TypeAlias = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,127}$",
        description="Id of the machine: 1 to 128 letters, digits and _ . : -, starting with a letter or a digit.",
        examples=["exc_001"],
    ),
    _ErrorMessage("must be 1 to 128 letters, digits and _ . : -, starting with a letter or a digit"),
]
AnomalyName: TypeAlias = Literal[
    "pressure_drop",
    "overheating",
    "cavitation",
    "leakage",
    "vibration_anomaly",
    "flow_restriction",
    "contamination",
    "seal_degradation",
    "valve_stiction",
]
Basis: TypeAlias = Literal["supervised", "proxy", "rule", "unavailable"]
Status: TypeAlias = Literal["healthy", "warning", "critical", "unknown"]
HealthBasis: TypeAlias = Literal["measured", "partial", "unmeasured", "rules", "unavailable"]

assert AnomalyName.__args__ == ANOMALIES  # type: ignore[attr-defined]


def _rates(value: Any) -> float | dict[str, float]:
    if isinstance(value, Mapping):
        if len(value) > MAX_SENSORS:
            raise PydanticCustomError("rates", "more than {most} sensors", {"most": MAX_SENSORS})
        return {str(name): _rate(rate, f"{printable(str(name)[:_MAX_SHOWN])}: ") for name, rate in value.items()}
    return _rate(value, "")


def _rate(value: Any, whose: str) -> float:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not MIN_RATE_HZ <= value <= MAX_RATE_HZ:
        wanted = {"whose": whose, "least": f"{MIN_RATE_HZ:g}", "most": f"{MAX_RATE_HZ:g}"}
        raise PydanticCustomError("rate", "{whose}a sampling rate must be a number from {least} to {most} Hz", wanted)
    return float(value)


def _circuit(value: Any) -> str | Mapping[str, Any] | Topology | None:
    if value is None or isinstance(value, str | Mapping | Topology):
        return value
    raise PydanticCustomError("topology", "must be the name of a template, or a graph of components and edges")


def _plausible(value: datetime) -> datetime:
    value = value.replace(tzinfo=UTC) if value.tzinfo is None else value
    if value > datetime.now(UTC) + _MAX_AHEAD:
        raise PydanticCustomError("timestamp", "more than a day in the future; check the clock of the machine")
    if value < _EARLIEST:
        raise PydanticCustomError("timestamp", "before 1970; check the clock of the machine")
    return value


Rates: TypeAlias = Annotated[
    float | dict[str, float],
    PlainValidator(_rates),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": MIN_RATE_HZ, "maximum": MAX_RATE_HZ},
                {"type": "object", "additionalProperties": {"type": "number"}},
            ],
        }
    ),
]
Circuit: TypeAlias = Annotated[
    str | dict[str, Any] | Topology | None,
    PlainValidator(_circuit),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}, {"type": "null"}]}),
]


class PredictionRequest(BaseModel):
    """One work cycle of one machine."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())

    equipment_id: EquipmentId
    sensor_data: dict[SensorName, Samples] = Field(
        min_length=1,
        max_length=MAX_SENSORS,
        description="Readings by the sensor's name, `<quantity>_<component_id>`: pressure [bar], flow [l/min],"
        " temperature [°C], vibration [mm/s] or power [W]. All sensors must span the same time, at most 60 s.",
        examples=[{"pressure_pump_main": [100.0, 101.0, 102.0]}],
    )
    sampling_rate_hz: Rates = Field(
        default=1.0,
        description="One rate for all sensors, or a rate by sensor name; the default of a sensor is 1 Hz.",
        examples=[1.0, {"flow_pump_main": 10.0}],
    )
    timestamp: Annotated[datetime, _AcceptIsoText(), AfterValidator(_plausible)] | None = Field(
        default=None,
        description="End of the window; UTC if there is no time zone. Without it the window is part of no trend, unless"
        " the machine is registered with its `cycle_s`.",
    )
    topology: Circuit = Field(
        default=None,
        description="A template's name (GET /topologies lists them) or a graph"
        ' `{"components": […], "edges": […]}`. Default: the one registered for the equipment.',
        examples=["zema_rig"],
    )
    model_version: str | None = Field(default=None, description="The version that answers. Default: by routing.")

    _prepared: Any = PrivateAttr(default=None)

    def keep(self, prepared: Any) -> None:
        """Keep what `postprocess` needs of `preprocess`, until `take`."""
        self.__pydantic_private__["_prepared"] = prepared  # type: ignore[index]  # a tenth of the time of setattr

    def take(self) -> Any:
        """What was kept; None if it was taken before. Requests may be stored, compared and copied."""
        private: Any = self.__pydantic_private__
        prepared, private["_prepared"] = private["_prepared"], None
        return prepared


_set = object.__setattr__
_ALL: set[str] = set()


class _Answer(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    @classmethod
    def build(cls, **fields: Any) -> Self:
        """Construct from all fields without validation: a tenth of the time. The caller guarantees valid values."""
        answer = cls.__new__(cls)
        _set(answer, "__dict__", fields)
        _set(answer, "__pydantic_fields_set__", _ALL)
        _set(answer, "__pydantic_extra__", None)
        _set(answer, "__pydantic_private__", None)
        return answer


class Health(_Answer):
    """Health of the machine."""

    score: float | None = Field(description="1 as new, 0 failed; null without a state of every component or a fault.")
    status: Status = Field(
        description="healthy from 0.7 without a fault, warning from 0.5, else critical; unknown without a fault and"
        " without evidence of every component that can fail."
    )
    basis: HealthBasis = Field(
        description="measured: states of all components that can fail, from sensors shown to tell them; partial: of"
        " some of them; unmeasured: states whose accuracy was not measured; rules: rules alone; unavailable: nothing."
    )


class DegradationAnswer(_Answer):
    """Degradation of the machine."""

    rate: float | None = Field(description="0 to 1; 1 is the loss of all health in 100 h; null if health has no score.")
    time_to_failure_hours: float | None = Field(
        description="Hours until health is 0.3, or the machine's `failure_health`; null without a certain decline, 0"
        " where health is not above it."
    )
    basis: Literal["history", "nominal", "none"] = Field(
        description="history: the trend of stored results; nominal: no trend, rate is the loss so far, 1 - health;"
        " none: no score, or the loss of health from rules alone."
    )
    rate_interval: tuple[float, float] | None = Field(default=None, description="95 % interval of rate.")
    time_to_failure_interval_hours: tuple[float, float | None] | None = Field(
        default=None, description="95 % interval; a null upper end means that it may never fail at this rate."
    )


class AnomalyAnswer(_Answer):
    """The nine kinds of fault."""

    predictions: dict[AnomalyName, float | None] = Field(
        description="Score of each fault, 0 to 1; null if this request cannot tell (basis: unavailable)."
    )
    detected_anomalies: list[AnomalyName] = Field(description="Faults at or above their threshold.")
    basis: dict[AnomalyName, Basis] = Field(
        description="supervised: trained on labels of this fault; proxy: trained on a similar label or on"
        " simulations; rule: a limit or a physical ratio; unavailable: not judged."
    )
    thresholds: dict[AnomalyName, float] = Field(description="Detection threshold of each fault.")


class StateAnswer(_Answer):
    """State of a component, with the levels of the training recordings."""

    name: Literal["cooler_condition", "valve_condition", "pump_leakage", "accumulator_pressure"]
    level: float | int = Field(description="Most probable level.")
    unit: str = Field(description="%, bar, or empty for the grades 0, 1, 2 of pump leakage.")
    probabilities: dict[str, float] = Field(description="Probability of every level, best level first.")


class ComponentAnswer(_Answer):
    """One component."""

    component_id: str
    type: str
    health: float | None = Field(description="1 as new, 0 failed; null without evidence.")
    state: StateAnswer | None = Field(description="null for kinds without states, or without evidence.")
    coverage: float = Field(
        description="Share of recorded cycles on which these sensors give a sure answer to this component's state, 0 if"
        " they do not tell it; the share of relevant sensors that were sent if that was not measured."
    )


class _Diagnosis(_Answer):
    equipment_id: str
    health: Health
    degradation: DegradationAnswer
    anomaly: AnomalyAnswer
    components: list[ComponentAnswer]
    coverage: float = Field(description="0 to 1: share of the evidence that the request contains.")
    warnings: list[str] = Field(description="Problems with the request, one sentence each.")
    unknown_sensors: list[str] = Field(description="Sensor names that are not in the topology; they are ignored.")
    topology: str = Field(description="Name of the topology in use.")


class PredictionResponse(TimedResponse, _Diagnosis):
    """The diagnosis. (The order of the bases puts the diagnosis first in the JSON.)"""

    model_config = ConfigDict(protected_namespaces=())

    _callback: Callable[[PredictionResponse, str], None] | None = PrivateAttr(default=None)

    def on_complete(self, callback: Callable[[PredictionResponse, str], None]) -> Self:
        """Call `callback` with the finished answer and its model version, which is only known to the platform."""
        _set(self, "__pydantic_private__", {"_callback": callback})
        return self

    def stamp(self, version: str, pre_ms: float = 0.0, run_ms: float = 0.0, post_ms: float = 0.0) -> None:
        """Fill in version and times, then run the callback, which stores the answer."""
        super().stamp(version, pre_ms, run_ms, post_ms)
        private = self.__pydantic_private__
        callback = private.pop("_callback", None) if private else None
        if callback is not None:
            callback(self, version)
