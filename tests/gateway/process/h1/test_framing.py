"""Where a request ends, and what is one: malformed, odd and hostile bytes have the verdicts of the table."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from framing_cases import GET, Case, cases, sized
from framing_driver import Driver, Finding, Outcome
from framing_fuzz import as_h11_reads, check_against_h11, fuzz, split
from framing_probe import check, check_pieces
from hypothesis import given, settings
from hypothesis import strategies as st
from live_servers import Live
from served_models import build_registry

from penstock.settings import Settings

CASES = list(cases())
SHORT = [case for case in CASES if len(case.sent) < 4000]
DOCUMENT = Path(__file__).parents[4] / "docs" / "framing.md"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    registry = build_registry(tmp_path_factory.mktemp("framing"))
    with Live("h1", Settings(registry=registry), ("vec",)) as live:
        yield live.port


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.group}: {case.name}")
def test_every_case_has_its_verdict(port: int, case: Case) -> None:
    assert check(port, case) == case.verdict


def test_the_documentation_has_the_verdicts_of_the_table() -> None:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("| ") and line.count("|") == 6]
    documented = [(cells[0].strip(), cells[1].strip()) for cells in rows if cells[0].strip() != "case"]
    assert documented == [(case.name, case.verdict) for case in CASES]


def test_names_of_cases_are_unique_within_their_group() -> None:
    assert len({(case.group, case.name) for case in CASES}) == len(CASES)


# Pieces


@given(st.lists(st.sampled_from(SHORT), min_size=1, max_size=4), st.integers(0, 2**32))
@settings(max_examples=60)
def test_a_stream_has_the_same_replies_in_any_pieces(
    tmp_path_factory: pytest.TempPathFactory, parts: list[Case], seed: int
) -> None:
    stream = b"".join(part.sent for part in parts)
    pieces = split(random.Random(seed), stream)

    async def both() -> tuple[Outcome, Outcome]:
        driver = Driver(tmp_path_factory.getbasetemp())
        return await driver.run([stream]), await driver.run(pieces)

    whole, parted = uvloop.run(both())
    assert parted == whole


@pytest.mark.parametrize("seed", range(8))
def test_a_stream_over_a_socket_has_the_same_replies_in_pieces(port: int, seed: int) -> None:
    chance = random.Random(seed)
    case = chance.choice([case for case in SHORT if case.end != "waits"])
    stream = GET + b"\r\n" + case.sent
    whole = check(port, Case("", "", stream, (), case.end))
    assert whole == Case("", "", stream, (200, *case.statuses), case.end).verdict
    assert check_pieces(port, split(chance, stream), case.end) == whole


# Mutations


@pytest.mark.parametrize("seed", range(3))
def test_mutated_streams_neither_break_a_connection_nor_hang_it(tmp_path: Path, seed: int) -> None:
    uvloop.run(fuzz(seed, 400, tmp_path))


def test_the_fuzzer_finds_a_body_that_is_read_as_a_request() -> None:
    stream = sized(b"Content-Length: 24")
    assert as_h11_reads(stream) == [(b"POST", stream[-24:])]
    with pytest.raises(Finding, match="by h11 as"):
        check_against_h11(stream, Outcome(((200, b"POST /predict? localhost "),), closed=False))


async def test_the_fuzzer_finds_a_request_that_is_never_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(tmp_path)
    monkeypatch.setattr(driver.gateway, "proceed", lambda _: None)
    with pytest.raises(Finding, match="never answered"):
        await asyncio.wait_for(driver.run([sized(b"Content-Length: 24")]), 60)
