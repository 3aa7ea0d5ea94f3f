"""A sample of the clients of a version."""

from __future__ import annotations

import json

from penstock.monitor.key_sample import MOST, KeySample


def sample(numbers: range) -> KeySample:
    made = KeySample()
    made.add(f"user-{number}" for number in numbers)
    return made


def test_few_keys_are_all_kept_and_a_client_counts_once() -> None:
    made = sample(range(100))
    made.add(["user-1", "user-1", "ü", "\ud800"])
    assert (made.count, made.halvings) == (102, 0)


def test_of_many_keys_a_sample_stays_and_says_about_how_many_there_were() -> None:
    made = sample(range(100_000))
    assert MOST / 3 < len(made.hashes) <= MOST
    assert 90_000 < made.count < 110_000


def test_samples_of_several_processes_are_the_sample_of_all_in_any_order() -> None:
    whole, parts = sample(range(30_000)), [sample(range(start, start + 12_000)) for start in (0, 9_000, 18_000)]
    for order in (parts, parts[::-1]):
        merged = KeySample()
        for part in order:
            merged.merge(KeySample.of(json.loads(json.dumps(part.to_document()))))
        assert merged == whole
