"""Quotas of the calendar, and the requests that count towards them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from penstock.registry.access.quota import Period, Quota
from penstock.registry.access.usage import KEPT_S
from penstock.registry.registry import Registry

Database = Callable[[Path], str]
YEAR_3000 = 32_503_680_000


@given(st.integers(0, YEAR_3000), st.sampled_from(["day", "month"]))
def test_periods_follow_one_another_without_a_gap(at: int, every: str) -> None:
    quota = Quota.parse(f"7/{every}")
    period = quota.period(at)
    assert at < period.ends_at
    after = quota.period(period.ends_at)
    assert quota.period(period.ends_at - 1) == period
    assert after.name > period.name
    assert datetime.fromtimestamp(at, UTC).isoformat().startswith(period.name)
    assert (after.ends_at - period.ends_at) // 86400 in ([1] if every == "day" else [28, 29, 30, 31])


@pytest.mark.parametrize("text", ["", "5", "0/day", "-1/day", "5/week", "1.5/day", "5/m", "1/day/d", "9" * 13 + "/day"])
def test_other_texts_are_no_quota(text: str, tmp_path: Path) -> None:
    with Registry(tmp_path / "registry") as registry, pytest.raises(InvalidInput, match=r"^quota: .* such as 5000/day"):
        registry.keys.create("shop", quota=text)
    assert not (tmp_path / "registry" / "penstock.db").exists() or not registry.keys.list()


def test_requests_of_all_servers_add_up_and_old_figures_go(tmp_path: Path, database: Database) -> None:
    with Registry(tmp_path / "registry", database(tmp_path / "registry")) as registry:
        made = registry.keys.create("shop", quota=" 100 / Day")
        assert made.stored.quota == "100/day"
        key = made.id
        assert registry.keys.used(registry.keys.list()) == {key: 0}
        old = (key, Period("2020-01-01", 1_577_923_200))
        assert registry.keys.count({old: 5}, [old]) == {old: 5}
        today = (key, made.stored.allowance.period(datetime.now(UTC).timestamp()))  # type: ignore[union-attr]
        other = ("another", today[1])
        assert registry.keys.count({today: 3, other: 2}, [today]) == {today: 3}
        assert registry.keys.count({today: 4}, [today, other]) == {today: 7, other: 2}
        assert registry.keys.count({}, [old]) == {old: 0}, f"kept for longer than {KEPT_S} s"
        assert registry.keys.used(registry.keys.list()) == {key: 7}


def test_a_key_of_an_earlier_release_has_no_quota(tmp_path: Path) -> None:
    with Registry(tmp_path / "registry") as registry:
        stored = registry.keys.create("shop", quota="5/month").stored
        record = stored.to_record()
        assert type(stored).from_record(record) == stored
        del record["quota"]
        assert type(stored).from_record(record).allowance is None
