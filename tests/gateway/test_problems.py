"""The mapping from errors to HTTP."""

from __future__ import annotations

import json

import pytest

from penstock import errors
from penstock.errors import FieldError, InvalidInput, ModelNotReady, Overloaded, PenstockError
from penstock.gateway.problems import Refusal, error_headers, is_server_fault, kind_of, problem_body

STATUSES = {
    errors.InvalidInput: 422,
    errors.OutOfRange: 422,
    errors.Forbidden: 403,
    errors.ModelNotFound: 404,
    errors.ModelNotReady: 503,
    errors.Forbidden: 403,
    errors.Overloaded: 429,
    errors.DeadlineExceeded: 504,
    errors.ModelLoadError: 503,
    errors.IntegrityError: 503,
    errors.UnsupportedFormat: 503,
    errors.Untrusted: 503,
    errors.GoldenMismatch: 503,
    errors.InferenceError: 500,
    errors.OutOfMemory: 500,
    errors.WorkerDied: 500,
    errors.ConfigError: 500,
    errors.DatabaseUnavailable: 503,
    errors.PenstockError: 500,
    ZeroDivisionError: 500,
}


def every_error() -> set[type[PenstockError]]:
    found, todo = {PenstockError}, [PenstockError]
    while todo:
        children = todo.pop().__subclasses__()
        found |= {child for child in children if child.__module__ == "penstock.errors"}
        todo += children
    return found


def test_every_error_of_the_tree_has_a_status() -> None:
    assert every_error() == {error for error in STATUSES if error is not ZeroDivisionError}


@pytest.mark.parametrize(("error", "status"), STATUSES.items())
def test_the_status_of_an_error(error: type[Exception], status: int) -> None:
    assert problem_body(error("why"), "id-1")[0] == status


@pytest.mark.parametrize(("error", "status"), STATUSES.items())
def test_messages_of_server_errors_are_not_shown_to_clients(error: type[Exception], status: int) -> None:
    document = json.loads(problem_body(error("/srv/secret/model.onnx"), "id-1")[1])
    fault = status == 500 or issubclass(error, errors.ModelLoadError)
    assert is_server_fault(error("x")) == fault
    assert ("secret" in document["detail"]) == (not fault and error is not errors.DatabaseUnavailable)
    if fault:
        assert "id-1" in document["detail"]


def test_a_problem_names_every_field() -> None:
    error = InvalidInput("two faults", errors=(FieldError("a", "too long"), FieldError("b[3]", "no number")))
    status, body = problem_body(error, "id-1")
    assert json.loads(body) == {
        "type": "urn:penstock:invalid-input",
        "status": 422,
        "title": "The request is not valid",
        "detail": "two faults",
        "errors": [{"field": "a", "message": "too long"}, {"field": "b[3]", "message": "no number"}],
        "request_id": "id-1",
    }
    assert status == 422


@pytest.mark.parametrize(("seconds", "header"), [(0.001, "1"), (1.0, "1"), (1.2, "2"), (30, "30")])
def test_retry_after_is_in_whole_seconds(seconds: float, header: str) -> None:
    for error in (Overloaded("full", retry_after_s=seconds), ModelNotReady("not yet", retry_after_s=seconds)):
        assert ("retry-after", header) in error_headers(error)


@pytest.mark.parametrize("error", [error for error, status in STATUSES.items() if status in (429, 503)])
def test_what_may_succeed_later_says_when(error: type[Exception]) -> None:
    assert [name for name, _ in error_headers(error("x"))] == ["retry-after"]
    assert kind_of(error("x")).slug in ("overloaded", "model-not-ready", "database-unavailable")


def test_a_refusal_adds_its_headers() -> None:
    headers = error_headers(Refusal(405, "no", headers=[("allow", "GET")]))
    assert headers == [("allow", "GET")]


def test_a_subclass_added_by_a_plug_in_counts_as_its_parent() -> None:
    class Stale(ModelNotReady):
        pass

    assert kind_of(Stale("x")).status == 503
