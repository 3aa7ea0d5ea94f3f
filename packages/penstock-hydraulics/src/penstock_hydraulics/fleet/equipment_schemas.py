"""Requests and responses of the equipment, history and topology routes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from penstock_hydraulics.diagnosis.schemas import Circuit
from penstock_hydraulics.diagnosis.trend import FAILURE_HEALTH
from penstock_hydraulics.fleet.equipment import MAX_CYCLE_S, Equipment
from penstock_hydraulics.fleet.results import Stored
from penstock_hydraulics.machine.topology import Topology

Number: TypeAlias = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Bounds(BaseModel):
    """Limits of a sensor, in its unit; a reading outside is a warning, and for some quantities a fault."""

    model_config = ConfigDict(extra="forbid")

    min: Number | None = None
    max: Number | None = None


class EquipmentBody(BaseModel):
    """A machine to register; replaces the one with the same id."""

    model_config = ConfigDict(extra="forbid")

    topology: Circuit = Field(
        description='A template\'s name (GET /topologies lists them) or a graph `{"components": […], "edges": […]}`.',
        examples=["zema_rig"],
    )
    nominal: dict[str, Number] = Field(
        default_factory=dict,
        description="By sensor: the mean of its readings over one healthy work cycle, in its unit. Used by rules.",
        examples=[{"pressure_pump_main": 161.0}],
    )
    limits: dict[str, Bounds] = Field(
        default_factory=dict,
        description="By sensor: its lower and upper limit.",
        examples=[{"temperature_cooler_main": {"max": 65.0}}],
    )
    failure_health: Number = Field(
        default=FAILURE_HEALTH, ge=0, le=0.9, description="The health at which the machine counts as failed."
    )
    note: str = Field(default="", max_length=500, description="Free text.")
    cycle_s: Number | None = Field(
        default=None,
        gt=0,
        le=MAX_CYCLE_S,
        description="Seconds from the start of one work cycle to the start of the next. Windows without a `timestamp`"
        " get their times from it by their order; without it they are part of no trend.",
        examples=[60.0],
    )


class EquipmentAnswer(EquipmentBody):
    """A registered machine."""

    equipment_id: str
    topology: Any = Field(description="A template's name or a graph.", examples=["zema_rig"])

    @classmethod
    def of(cls, equipment: Equipment) -> EquipmentAnswer:
        """From checked equipment."""
        return cls(equipment_id=equipment.id, **equipment.document())


class EquipmentList(BaseModel):
    """A page of machines, sorted by id."""

    equipment: list[EquipmentAnswer]
    total_count: int = Field(description="Number of registered machines.")
    next: str | None = Field(description="Value of `after` for the next page; null at the end.")


class Removed(BaseModel):
    """A removed machine."""

    equipment_id: str
    history_removed: bool


class PastHealth(BaseModel):
    """Stored health."""

    score: float | None
    status: str


class PastDegradation(BaseModel):
    """Stored degradation."""

    rate: float | None
    time_to_failure_hours: float | None
    basis: str


class HistoryItem(BaseModel):
    """One diagnosis."""

    model_config = ConfigDict(protected_namespaces=())

    timestamp: datetime = Field(description="End of the window, UTC; of its arrival if that is unknown.")
    health: PastHealth
    degradation: PastDegradation
    detected_anomalies: list[str]
    components: dict[str, float] = Field(description="Health by component, where it is known.")
    coverage: float
    model_version: str
    late: bool = Field(description="True if the result was stored late because the database was unavailable.")

    @classmethod
    def of(cls, stored: Stored) -> HistoryItem:
        """From a stored result."""
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
    """The latest diagnoses of a time range, in ascending order."""

    equipment_id: str
    results: list[HistoryItem]
    next: str | None = Field(description="Value of `before` for the page of older results; null at the end.")


class TopologyAnswer(BaseModel):
    """One template."""

    name: str
    components: list[dict[str, Any]]
    edges: list[tuple[str, str]]
    sensors: list[str] = Field(description="Names of its sensors in `sensor_data`.")

    @classmethod
    def of(cls, topology: Topology) -> TopologyAnswer:
        """From a topology."""
        return cls(**topology.document(), sensors=list(topology.expected_sensors))


class TopologyList(BaseModel):
    """All templates."""

    topologies: list[TopologyAnswer]
    units: dict[str, str] = Field(description="The unit of each quantity.")
    types: list[str] = Field(description="The valid types of components.")
