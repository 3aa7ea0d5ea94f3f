"""What an interrupted search leaves behind, and what a later one takes over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from penstock.errors import ConfigError
from penstock.toolchain.recipes.recipe import Recipe
from penstock.toolchain.search.candidate import Candidate, Form, Judgement, Planned, Speed
from penstock.toolchain.search.trying.workspace import Workspace, key_of

PLANNED = Planned("openvino-fp32", Recipe(format="openvino"), rank=1)


class _Interrupted(Exception):
    pass


def _done(workspace: Workspace) -> Candidate:
    scratch = workspace.scratch(PLANNED.name)
    path, weights = scratch / "model.xml", scratch / "model.bin"
    path.write_text("<net/>")
    weights.write_bytes(b"weights")
    form = Form(PLANNED.name, "openvino", "fp32", path, {"model.bin": weights}, exporter="openvino", notes=("a note",))
    judgement = Judgement(agreement=1.0, accuracy=0.9, max_abs=1e-6, batch_invariant=True, errors=(0.0, 1e-6))
    speed = Speed(2, {1: 0.5, 32: 4.0}, {1: 0.7, 32: 5.0}, 10**8, 0.5, (1.4, 1.3, 1.5))
    return Candidate(PLANNED, "planned", "", form, judgement, speed, 2.5)


def _interrupt(root: Path, key: str) -> Candidate:
    done: list[Candidate] = []

    def search() -> None:
        with Workspace.of(root, key) as workspace:
            done.append(_done(workspace))
            workspace.keep(done[0])
            raise _Interrupted

    with pytest.raises(_Interrupted):
        search()
    return done[0]


def test_a_later_search_takes_over_what_an_interrupted_one_finished(tmp_path: Path) -> None:
    candidate = _interrupt(tmp_path, "k")
    with Workspace.of(tmp_path, "k") as workspace:
        assert workspace.known(PLANNED) == candidate
        assert workspace.resumed == 1
        assert workspace.known(replace(PLANNED, name="another")) is None
        assert workspace.known(replace(PLANNED, recipe=Recipe(format="onnx"))) is None


def test_a_candidate_whose_file_changed_is_made_again(tmp_path: Path) -> None:
    candidate = _interrupt(tmp_path, "k")
    assert candidate.form is not None
    candidate.form.path.write_text("<other/>")
    with Workspace.of(tmp_path, "k") as workspace:
        assert workspace.known(PLANNED) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"schema": 1}',
        '{"schema": 99, "candidates": {}}',
        '{"schema": 1, "candidates": {"openvino-fp32": 3}}',
    ],
)
def test_a_damaged_state_starts_over(tmp_path: Path, content: str) -> None:
    _interrupt(tmp_path, "k")
    (tmp_path / "k" / "state.json").write_text(content)
    with Workspace.of(tmp_path, "k") as workspace:
        assert workspace.known(PLANNED) is None


def test_a_search_that_ended_leaves_nothing(tmp_path: Path) -> None:
    with Workspace.of(tmp_path, "k") as workspace:
        workspace.keep(_done(workspace))
    assert list(tmp_path.iterdir()) == []


def test_a_search_that_failed_before_anything_was_done_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(_Interrupted), Workspace.of(tmp_path, "k"):
        raise _Interrupted
    assert list(tmp_path.iterdir()) == []


def test_two_searches_for_the_same_do_not_run_at_once(tmp_path: Path) -> None:
    with (
        Workspace.of(tmp_path, "k"),
        pytest.raises(ConfigError, match="another process is optimizing this model"),
        Workspace.of(tmp_path, "k"),
    ):
        pass


def test_another_model_data_or_option_is_another_search() -> None:
    facts = {"model": "a", "data": "b", "target": "p99"}
    assert key_of(facts) == key_of(dict(reversed(facts.items())))
    assert len({key_of(facts | {name: "other"}) for name in facts} | {key_of(facts)}) == 4
