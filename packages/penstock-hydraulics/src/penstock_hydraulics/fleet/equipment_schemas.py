"""What the routes beside the prediction take and give: machines, their history, and the templates."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from penstock_hydraulics.diagnosis.schemas import Circuit
from penstock_hydraulics.diagnosis.trend import FAILURE_HEALTH
from penstock_hydraulics.fleet.equipment import Equipment
from penstock_hydraulics.fleet.results import Stored
from penstock_hydraulics.machine.topology import Topology

Number: TypeAlias = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Bounds(BaseModel):
    """What a sensor may say, in its unit; beyond it is a warning, and for some quantities a fault."""

    model_config = ConfigDict(extra="forbid")

    min: Number | None = None
    max: Number | None = None


class EquipmentBody(BaseModel):
    """A machine to register, in place of what was registered under its id."""

    model_config = ConfigDict(extra="forbid")

    topology: Circuit = Field(
        description='A template\'s name (GET /topologies lists them) or a graph `{"components": […], "edges": […]}`.',
        examples=["zema_rig"],
    )
    nominal: dict[str, Number] = Field(
        default_factory=dict,
        description="By sensor: the mean of its readings over one sound work cycle, in its unit. Rules need them.",
        examples=[{"pressure_pump_main": 161.0}],
    )
    limits: dict[str, Bounds] = Field(
        default_factory=dict,
        description="By sensor: its lowest and highest reading.",
        examples=[{"temperature_cooler_main": {"max": 65.0}}],
    )
    failure_health: Number = Field(
        default=FAILURE_HEALTH, ge=0, le=0.9, description="The health at which it has failed."
    )
    note: str = Field(default="", max_length=500, description="For people.")


class EquipmentAnswer(EquipmentBody):
    """A machine as registered."""

    equipment_id: str
    topology: Any = Field(description="A template's name or a graph.", examples=["zema_rig"])

    @classmethod
    def of(cls, equipment: Equipment) -> EquipmentAnswer:
        """For one that was checked already."""
        return cls(equipment_id=equipment.id, **equipment.document())


class EquipmentList(BaseModel):
    """Some of the machines, sorted by their ids."""

    equipment: list[EquipmentAnswer]
    total_count: int = Field(description="How many there are.")
    next: str | None = Field(description="Ask with `after` set to this for those that follow; null at the end.")


class Removed(BaseModel):
    """A machine that is no longer registered."""

    equipment_id: str
    history_removed: bool


class PastHealth(BaseModel):
    """Health as it was."""

    score: float | None
    status: str


class PastDegradation(BaseModel):
    """Degradation as it was."""

    rate: float | None
    time_to_failure_hours: float | None
    basis: str


class HistoryItem(BaseModel):
    """One diagnosis."""

    model_config = ConfigDict(protected_namespaces=())

    timestamp: datetime = Field(description="When the window ended, UTC.")
    health: PastHealth
    degradation: PastDegradation
    detected_anomalies: list[str]
    components: dict[str, float] = Field(description="The health of each component that could be judged.")
    coverage: float
    model_version: str
    late: bool = Field(description="True for one that waited for a database which did not answer.")

    @classmethod
    def of(cls, stored: Stored) -> HistoryItem:
        """For the wire."""
        result = stored.result
        return cls(
            timestamp=datetime.fromtimestamp(result.at_s, UTC),
            health=PastHealth(score=result.health, status=result.status),
            degradation=PastDegradation(
                rate=result.rate, time_to_failure_hours=result.time_to_failure_hours, basis=result.basis
            ),
            detected_anomalies=list(result.detected),
            components=dict(result.components),
            coverage=result.coverage,
            model_version=result.model_version,
            late=stored.late,
        )


class History(BaseModel):
    """The latest diagnoses of the time asked for, rising in time."""

    equipment_id: str
    results: list[HistoryItem]
    next: str | None = Field(description="Ask with `before` set to this for the older ones; null where there are none.")


class TopologyAnswer(BaseModel):
    """One template."""

    name: str
    components: list[dict[str, Any]]
    edges: list[tuple[str, str]]
    sensors: list[str] = Field(description="The names that its readings have in `sensor_data`.")

    @classmethod
    def of(cls, topology: Topology) -> TopologyAnswer:
        """For the wire."""
        return cls(**topology.document(), sensors=list(topology.expected_sensors))


class TopologyList(BaseModel):
    """All templates."""

    topologies: list[TopologyAnswer]
    units: dict[str, str] = Field(description="The unit of each quantity.")
    types: list[str] = Field(description="The types that a component may have.")
