"""Answers of the routes that the page reads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from penstock_hydraulics.diagnosis.schemas import Health
from penstock_hydraulics.fleet.equipment import Equipment
from penstock_hydraulics.fleet.equipment_schemas import EquipmentAnswer
from penstock_hydraulics.fleet.latest import LatestDiagnosis, MachineState


class MachineItem(BaseModel):
    """A machine with its latest diagnosis; null where nothing was diagnosed yet."""

    model_config = ConfigDict(protected_namespaces=())

    equipment_id: str
    timestamp: datetime | None = Field(description="End of the latest window, UTC.")
    health: Health | None
    detected_anomalies: list[str]
    coverage: float | None
    model_version: str | None

    @classmethod
    def of(cls, state: MachineState) -> MachineItem:
        """From what is stored."""
        answer = state.answer
        if answer is None:
            return cls(
                equipment_id=state.equipment_id,
                timestamp=None,
                health=None,
                detected_anomalies=[],
                coverage=None,
                model_version=None,
            )
        return cls(
            equipment_id=state.equipment_id,
            timestamp=_time(state.at_s),
            health=answer["health"],
            detected_anomalies=answer["anomaly"]["detected_anomalies"],
            coverage=answer["coverage"],
            model_version=answer["model_version"],
        )


class MachineList(BaseModel):
    """A page of machines, sorted by id."""

    machines: list[MachineItem]
    counts: dict[str, int] = Field(description="Number of machines by the status of their latest diagnosis.")
    next: str | None = Field(description="Value of `after` for the next page; null at the end.")
    models: list[str] = Field(description="Served models that diagnose, the default first.")


class Latest(BaseModel):
    """The latest diagnosis of a machine, with the readings that it rests on."""

    equipment_id: str
    timestamp: datetime | None = Field(description="End of the window, UTC; null where no whole answer is stored.")
    answer: dict[str, Any] | None = Field(description="The diagnosis, as it was answered.")
    readings: dict[str, list[float]] = Field(description="Readings by sensor, the mean of each second.")
    equipment: EquipmentAnswer | None = Field(description="The machine as registered; null if it is not.")

    @classmethod
    def of(cls, equipment_id: str, latest: LatestDiagnosis | None, equipment: Equipment | None) -> Latest:
        """From what is stored."""
        return cls(
            equipment_id=equipment_id,
            timestamp=None if latest is None else _time(latest.at_s),
            answer=None if latest is None else dict(latest.answer),
            readings={} if latest is None else {name: [*values] for name, values in latest.readings.items()},
            equipment=None if equipment is None else EquipmentAnswer.of(equipment),
        )


def _time(at_s: float | None) -> datetime:
    return datetime.fromtimestamp(at_s or 0.0, UTC)
