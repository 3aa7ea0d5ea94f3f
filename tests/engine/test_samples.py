"""Which requests belong to a sample."""

from __future__ import annotations

import subprocess
import sys
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.routing import Sample, sampled

SAMPLE_SALT = "penstock-sample"

IDS = [f"3f2a91c0-{n:x}" for n in range(200_000)]


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.99])
def test_a_sample_has_its_share_of_the_identities(share: float) -> None:
    found = len(Sample(SAMPLE_SALT, share).chosen(IDS))
    assert abs(found - share * len(IDS)) < 3 * sqrt(len(IDS) * share * (1 - share))


def test_a_smaller_sample_is_a_part_of_a_larger() -> None:
    few, many = (set(Sample(SAMPLE_SALT, share).chosen(IDS)) for share in (0.01, 0.1))
    assert few < many


def test_another_salt_chooses_others() -> None:
    one, other = (set(Sample(salt, 0.1).chosen(IDS)) for salt in ("a", "b"))
    assert abs(len(one & other) - len(IDS) / 100) < 3 * sqrt(len(IDS) / 100)


@given(st.lists(st.text()), st.floats(-1, 2), st.text(max_size=8))
def test_many_at_once_are_chosen_as_each_alone(identities: list[str], share: float, salt: str) -> None:
    alone = [index for index, identity in enumerate(identities) if sampled(identity, salt, share)]
    assert Sample(salt, share).chosen(identities) == alone


@pytest.mark.parametrize(("share", "count"), [(-1, 0), (0, 0), (1e-19, 0), (1, 1000), (2, 1000)])
def test_the_ends_are_nothing_and_everything(share: float, count: int) -> None:
    assert len(Sample(SAMPLE_SALT, share).chosen(IDS[:1000])) == count


def test_another_process_chooses_the_same() -> None:
    code = (
        "from penstock.engine.routing import Sample; "
        "print(Sample('penstock-sample', 0.1).chosen([f'3f2a91c0-{n:x}' for n in range(100)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(Sample(SAMPLE_SALT, 0.1).chosen(IDS[:100]))
