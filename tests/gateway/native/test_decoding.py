"""The fast and the slow path from JSON to a request give the same verdict and the same values."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from penstock.errors import InvalidInput
from penstock.gateway.native import decoding, json_outline, large_json
from penstock.gateway.native import fast_json as arrays
from penstock.gateway.native.decoding import read_json
from penstock.tasks.validation_errors import MAX_ERRORS
from penstock.tasks.vector import VectorClassification
from penstock.tensors import Signature, TensorSpec

FEATURES = 3
TASK = VectorClassification(
    {}, Signature((TensorSpec("x", "FP32", (-1, FEATURES)),), (TensorSpec("y", "FP32", (-1, 2)),))
)

WAYS = [arrays.read_orjson]
if arrays.simdjson is not None:
    WAYS.append(arrays.read_simdjson)


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def fast_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(arrays, "read", request.param)
    return request.param


def verdict(decode: Callable[[], BaseModel]) -> Any:
    """The decoded request, or the invalid fields."""
    try:
        request = decode()
        inputs = TASK.preprocess(request)
    except InvalidInput as error:
        return "refused", tuple(fault.field for fault in error.errors)
    rest = {name: value for name, value in request.__dict__.items() if name != "input_data"}
    return "taken", inputs["x"].tolist(), rest


def check_same(body: bytes) -> None:
    slow = verdict(lambda: decoding.decode_slowly(TASK.Request, body))
    for way in WAYS:
        with using(way):
            assert verdict(lambda: read_json(TASK, body)) == slow, way.__name__


@contextmanager
def using(way: Callable[..., Any]) -> Iterator[None]:
    original, arrays.read = arrays.read, way
    try:
        yield
    finally:
        arrays.read = original


numbers = st.one_of(
    st.floats(width=64),
    st.integers(),
    st.integers(min_value=-(10**400), max_value=10**400),
    st.sampled_from(
        ["1e400", "-1e400", "1e-400", "-0", "-0.0", "0e9", "NaN", "Infinity", "-Infinity", "1.", ".5", "01"]
    ),
    st.sampled_from(["18446744073709551615", "18446744073709551616", "9007199254740993", "-9223372036854775809"]),
)
odd_items = st.one_of(
    st.none(), st.booleans(), st.text(max_size=4), st.lists(st.integers(0, 3), max_size=2), st.just({})
)


def written(value: Any) -> str:
    """JSON text; a str of the number strategy is used verbatim."""
    return value if isinstance(value, str) else json.dumps(value)


written_arrays = st.one_of(
    st.lists(numbers.map(written), min_size=FEATURES, max_size=FEATURES),
    st.lists(numbers.map(written), max_size=2 * FEATURES),
    st.lists(st.one_of(numbers.map(written), odd_items.map(json.dumps)), max_size=FEATURES + 1),
).map(lambda items: "[" + ",".join(items) + "]")
versions = st.one_of(st.none(), st.text(max_size=6), st.integers(), st.sampled_from(["v1.0", "[", "{", "\\", "true"]))
batch_sizes = st.one_of(st.integers(-2, 130), st.sampled_from([True, None, "1", 1.0, 2**53 + 1, 2**64, 1e300, 0.5]))
members = st.one_of(
    written_arrays.map(lambda text: ("input_data", text)),
    versions.map(lambda value: ("model_version", json.dumps(value))),
    batch_sizes.map(lambda value: ("batch_size", json.dumps(value))),
    st.tuples(st.text(max_size=6), odd_items.map(json.dumps)),
    written_arrays.map(lambda text: ("input\\u005fdata", text)),
)
blanks = st.sampled_from(["", " ", "\n", "\t\r\n ", "\ufeff", "\0", "x"])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Valid and invalid objects of clients."""
    chosen = draw(st.lists(members, max_size=4))
    if draw(st.booleans()):
        chosen.insert(0, ("input_data", draw(written_arrays)))
    quoted = [(json.dumps(name) if "\\" not in name else f'"{name}"') + ": " + text for name, text in chosen]
    text = draw(blanks) + "{" + ",".join(quoted) + "}" + draw(blanks)
    return text.encode("utf-8", errors="surrogatepass")


GOOD = b'{"input_data": [1, 2.5, -3e2], "model_version": "v1.0", "batch_size": 1}'


@settings(max_examples=600, deadline=None)
@given(bodies())
@example(GOOD)
@example(b'{"input_data": [1,[2],3]}')
@example(b'{"input_data": [1,2,3], "input_data": [4,5,6]}')
@example(b'{"input_data": [1,2,3], "model_version": "a", "model_version": "b"}')
@example(b'{"input_data": [1,2,3], "batch_size": 2, "batch_size": 1}')
@example(b'{"input_data": [1,2,3], "batch_size": 1, "batch\\u005fsize": 2}')
@example(b'{"input\\u005fdata": [1,2,3]}')
@example(b'{"input_data": [1,2,3], "model_version": "\\ud800"}')
@example(b'{"input_data": [1,2,3], "model_version": "\\ud83d\\ude00 \\u0000"}')
@example(b'{"input_data": [1,2,true]}')
@example(b'{"input_data": []}')
@example(b'\xef\xbb\xbf{"input_data": [1,2,3]}')
@example(b'{"input_data": [1,2,3]} x')
@example(b'{"input_data": [1,2,3], "model_version": "\xff"}')
@example(b'{"input_data": [1,2,3], "model_version": "\x01"}')
@example(b"[1,2,3]")
@example(b"3")
@example(b"null")
@example(b"")
def test_both_paths_agree_on_generated_bodies(body: bytes) -> None:
    check_same(body)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_both_paths_agree_on_a_valid_body_with_some_bytes_changed(data: st.DataObject) -> None:
    body = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        change = data.draw(st.sampled_from(["replace", "insert", "delete", "cut"]))
        if change == "replace":
            body[at] = data.draw(st.one_of(st.sampled_from(b'[]{},:"\\0123456789eE.-+ tfn'), st.integers(0, 255)))
        elif change == "insert":
            body[at:at] = bytes([data.draw(st.one_of(st.sampled_from(b'[]{},:"\\0123456789.-'), st.integers(0, 255)))])
        elif change == "delete" and len(body) > 1:
            del body[at]
        elif change == "cut" and at:
            del body[at:]
    check_same(bytes(body))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1e30, 1e30), min_size=FEATURES, max_size=FEATURES))
def test_numbers_arrive_as_written(values: list[float]) -> None:
    body = json.dumps({"input_data": values}).encode()
    for way in WAYS:
        fields = way(body, TASK)
        assert fields is not None
        assert fields["input_data"].tolist() == values


def test_an_ordinary_body_takes_the_fast_path(fast_way: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "decode_slowly", lambda *_: pytest.fail("took the slow way"))
    request: Any = read_json(TASK, GOOD)
    assert type(request.input_data) is np.ndarray
    assert request.model_version == "v1.0"


def test_decoded_numbers_outlive_the_parser(fast_way: Callable[..., Any]) -> None:
    first: Any = read_json(TASK, b'{"input_data": [1, 2, 3]}')
    for number in range(50):
        read_json(TASK, b'{"input_data": [%d, %d, %d]}' % (number, number, number))
    assert first.input_data.tolist() == [1, 2, 3]


def test_a_refused_body_does_not_block_the_parser(fast_way: Callable[..., Any]) -> None:
    for body in (b'{"input_data": [1, "x"]}', b'{"input_data": 3}', b'{"input_data": [1', b'{"x": [1]}'):
        with pytest.raises(InvalidInput):
            read_json(TASK, body)
        assert fast_way(GOOD, TASK) is not None


def test_each_thread_has_its_own_parser() -> None:
    failures: list[BaseException] = []

    def work(value: int) -> None:
        try:
            for _ in range(300):
                body = b'{"input_data": [%d, %d, %d]}' % (value, value, value)
                request: Any = read_json(TASK, body)
                assert list(request.input_data) == [value] * 3
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_body_too_large_for_the_shared_parser_is_read(fast_way: Callable[..., Any]) -> None:
    values = [0.25] * 300_000
    fields = fast_way(json.dumps({"input_data": values}).encode(), TASK)
    assert len(fields["input_data"]) == 300_000


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"   ", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b'{"input_data": [1, 2, NaN]}', "input_data[2]"),
        (b'{"input_data": [1, 2, -Infinity]}', "input_data[2]"),
        (b'{"input_data": [1, 2, 1e400]}', "input_data[2]"),
        (b'{"input_data": [1, "2", 3]}', "input_data[1]"),
        (b'{"input_data": "123"}', "input_data"),
        (b'{"input_data": []}', "input_data"),
        (b'{"model_version": "v1.0"}', "input_data"),
        (b'{"input_data": [1, 2, 3], "batch_size": 129}', "batch_size"),
        (b'{"input_data": [1, 2, 3], "model_version": 1}', "model_version"),
        (b'{"input_data": [1, 2, 3], "colour": "red"}', "colour"),
    ],
)
def test_an_error_names_the_field(fast_way: Callable[..., Any], body: bytes, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_json(TASK, body)
    assert [fault.field for fault in caught.value.errors] == [field]
    assert str(caught.value).startswith(f"{field}: ")


def test_the_word_nan_in_a_string_is_not_a_number() -> None:
    request: Any = read_json(TASK, b'{"input_data": [1, 2, 3], "model_version": "NaN"}')
    assert request.model_version == "NaN"


class Loose(BaseModel):
    """A request model that accepts anything."""

    model_config = ConfigDict(extra="allow")
    value: float = 0.0


@pytest.mark.parametrize("token", [b"NaN", b"Infinity", b"-Infinity"])
def test_constants_that_are_not_json_are_refused_by_any_model(token: bytes) -> None:
    with pytest.raises(InvalidInput, match="not valid JSON"):
        decoding.decode_slowly(Loose, b'{"value": %b}' % token)


class Many(BaseModel):
    """Checks every item."""

    items: list[Annotated[int, Field(strict=True)]]


def test_at_most_20_errors_are_reported_and_no_value_is_repeated() -> None:
    secret = "s3cret"
    with pytest.raises(InvalidInput) as caught:
        decoding.decode_slowly(Many, json.dumps({"items": [secret] * 100}).encode())
    assert len(caught.value.errors) == MAX_ERRORS
    assert "97 more" in str(caught.value)
    assert secret not in str(caught.value) + str(caught.value.errors)


@settings(max_examples=200, deadline=None)
@given(bodies())
def test_an_item_of_a_batch_gets_the_verdict_it_gets_alone(body: bytes) -> None:
    try:
        item = decoding.parse(body)
    except InvalidInput:
        return
    written = json.dumps(item).replace("Infinity", "1e999")
    alone = verdict(lambda: decoding.decode_slowly(TASK.Request, written.encode()))
    verdict_in_batch = verdict(lambda: decoding.decode_item(TASK, item))
    if "1e999" in written:  # an infinite number is always refused, but the error may name another field
        assert alone[0] == verdict_in_batch[0] == "refused"
    else:
        assert verdict_in_batch == alone


def test_a_whole_number_beyond_a_float_keeps_its_digits_or_is_refused() -> None:
    class Counted(BaseModel):
        input_data: Any
        count: Any

    class Task(VectorClassification):
        Request = Counted

    task = Task({}, TASK.signature)
    for way in WAYS:
        with using(way):
            request: Any = read_json(task, b'{"input_data": [1], "count": 123456789012345678901}')
            assert request.count == 123456789012345678901


def test_only_finite_numbers_reach_the_model() -> None:
    for text in ("1e39", "-1e39", "3.5e38", "1e308"):
        with pytest.raises(InvalidInput, match=r"input_data\[0\]"):
            TASK.preprocess(read_json(TASK, b'{"input_data": [%b, 0, 0]}' % text.encode()))
    assert math.isfinite(TASK.preprocess(read_json(TASK, b'{"input_data": [3.4e38, 0, 0]}'))["x"][0, 0])


def test_a_body_with_very_many_errors_is_refused_without_listing_them() -> None:
    body = json.dumps({f"k{number}": 0 for number in range(5000)}).encode()
    with pytest.raises(InvalidInput, match="5001 fields are invalid") as caught:
        decoding.decode_slowly(TASK.Request, body)
    assert [fault.field for fault in caught.value.errors] == ["body"]


# Several arrays in one object


class Readings(BaseModel):
    """A request model with arrays by name."""

    model_config = ConfigDict(strict=True, extra="forbid")
    readings: dict[str, Annotated[list[float], Field(min_length=1)]]
    rates: float | dict[str, float] = 1.0
    note: str | None = None

    @field_validator("readings", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: list(each) if isinstance(each, array) else each for name, each in value.items()}


class Gauges(VectorClassification):
    """Takes arrays by name."""

    array_field = None
    series_field = "readings"
    Request = Readings


GAUGES = Gauges({}, TASK.signature)
GOOD_SERIES = b'{"readings": {"p": [1, 2.5, -3e2], "t": [4]}, "rates": {"p": 10, "t": 1.5}, "note": "a"}'


def series_verdict(decode: Callable[[], Any]) -> Any:
    try:
        request = decode()
    except InvalidInput as error:
        return "refused", tuple(fault.field for fault in error.errors)
    return "taken", request.__dict__


def check_same_series(body: bytes) -> None:
    slow = series_verdict(lambda: decoding.decode_slowly(Readings, body))
    for way in WAYS:
        with using(way):
            assert series_verdict(lambda: read_json(GAUGES, body)) == slow, way.__name__
    in_a_batch = b'{"requests": [%b, %b]}' % (GOOD_SERIES, body)
    try:
        items = decoding.parse(in_a_batch)["requests"]
    except InvalidInput:
        return
    slow_items = [series_verdict(lambda item=item: decoding.decode_item(GAUGES, item)) for item in items]
    found = decoding.Batch(in_a_batch).items(GAUGES)
    assert [series_verdict(lambda each=each: raised(each)) for each in found] == slow_items


def raised(found: BaseModel | InvalidInput) -> BaseModel:
    if isinstance(found, InvalidInput):
        raise found
    return found


series = st.dictionaries(st.text(max_size=4), written_arrays, max_size=3).map(
    lambda each: "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in each.items()) + "}"
)
series_members = st.one_of(
    series.map(lambda text: ("readings", text)),
    written_arrays.map(lambda text: ("readings", text)),
    st.sampled_from(["1", "2.5", "{}", '{"p": 1}', '{"p": [1]}', '{"p": {"q": 1}}', "[1]", "true", "null"]).map(
        lambda text: ("rates", text)
    ),
    versions.map(lambda value: ("note", json.dumps(value))),
)


@st.composite
def series_bodies(draw: st.DrawFn) -> bytes:
    chosen = draw(st.lists(series_members, max_size=3))
    if draw(st.booleans()):
        chosen.insert(0, ("readings", draw(series)))
    text = draw(blanks) + "{" + ",".join(f'"{name}": {text}' for name, text in chosen) + "}" + draw(blanks)
    return text.encode("utf-8", errors="surrogatepass")


@settings(max_examples=400, deadline=None)
@given(series_bodies())
@example(GOOD_SERIES)
@example(b'{"readings": {"p": [[1]], "t": [2]}}')
@example(b'{"readings": {"p": [[1], [2]]}}')
@example(b'{"readings": {"p": [1], "p": [2]}}')
@example(b'{"readings": {"p": [1, true]}}')
@example(b'{"readings": {"p": [1], "t": []}}')
@example(b'{"readings": {"p": [1], "t": 2}, "note": "["}')
@example(b'{"readings": {}}')
@example(b'{"readings": {"p": [1]}, "rates": {"p": [1]}}')
@example(b'{"readings": {"p": [1]}, "rates": {"p": 1, "p": 2}}')
@example(b'{"readings": {"p": [NaN]}}')
@example(b'{"readings": {"p": "bad", "p": [1]}}')
@example(b'{"readings": {"p": [1, 2], "p\\u0000": ["bad"]}}')
@example(b'{"readings": {"p": [1]}, "rates": {"p": 1, "p\\u0000": 5}}')
@example(b'{"readings": {"p": [1]}, "readings\\u0000": 1}')
@example(b'{"readings": {"p": [1]}, "rates": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}")
def test_all_paths_agree_on_arrays_by_name(body: bytes) -> None:
    check_same_series(body)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_all_paths_agree_on_a_valid_body_of_arrays_by_name_with_some_bytes_changed(data: st.DataObject) -> None:
    body = bytearray(GOOD_SERIES)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at] = data.draw(st.one_of(st.sampled_from(b'[]{},:"\\0123456789eE.-+ tfn'), st.integers(0, 255)))
    check_same_series(bytes(body))


def test_ordinary_arrays_by_name_take_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    if arrays.simdjson is None:
        pytest.skip("orjson does not tell of a name that is given twice")
    fields = arrays.read_simdjson(GOOD_SERIES, GAUGES)
    assert fields is not None
    assert fields["readings"] == {"p": array("d", [1, 2.5, -300]), "t": array("d", [4])}
    monkeypatch.setattr(decoding, "decode_slowly", lambda *_: pytest.fail("took the slow way"))
    assert read_json(GAUGES, GOOD_SERIES).readings["p"] == [1, 2.5, -300]  # type: ignore[attr-defined]


# Batches


def test_items_of_a_task_without_arrays_are_read_as_json() -> None:
    class Dated(BaseModel):
        model_config = ConfigDict(strict=True)
        day: date

    class Calendar(VectorClassification):
        array_field = None
        Request = Dated

    item = b'{"day": "2026-11-21"}'
    (found,) = decoding.Batch(b'{"requests": [%b]}' % item).items(Calendar({}, TASK.signature))
    assert found == decoding.decode_slowly(Dated, item)


def test_an_ordinary_batch_is_read_without_a_python_object_for_each_number(monkeypatch: pytest.MonkeyPatch) -> None:
    if arrays.simdjson is None:
        pytest.skip("without simdjson every batch is read by orjson")
    monkeypatch.setattr(decoding, "parse", lambda _: pytest.fail("took the slow way"))
    batch = decoding.Batch(b'{"model": "digits", "requests": [%b, %b]}' % (GOOD, GOOD.replace(b"2.5", b"7")))
    assert batch.shell == {"model": "digits", "requests": [None, None]}
    assert [item.input_data.tolist() for item in batch.items(TASK)] == [[1, 2.5, -300], [1, 7, -300]]


@settings(max_examples=200, deadline=None)
@given(st.lists(bodies(), min_size=1, max_size=3))
def test_the_verdict_on_an_item_does_not_depend_on_the_others(items: list[bytes]) -> None:
    body = b'{"requests": [%b]}' % b",".join(items)
    try:
        requests = decoding.parse(body)["requests"]
    except InvalidInput:
        return
    found = decoding.Batch(body).items(TASK)
    for each, item in zip(found, requests, strict=True):
        alone = verdict(lambda item=item: decoding.decode_item(TASK, item))
        assert verdict(lambda each=each: raised(each)) == alone


@pytest.mark.parametrize("body", [b"[]", b"3", b"", b"{"])
def test_a_batch_that_is_not_an_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="body: "):
        decoding.Batch(body)


@pytest.mark.parametrize("body", [b'{"requests": 3}', b"{}", b'{"requests": {}}'])
def test_a_batch_without_a_list_is_passed_on_unchanged(body: bytes) -> None:
    assert decoding.Batch(body).shell == json.loads(body)


def test_items_that_are_not_objects_are_refused_one_by_one() -> None:
    found = decoding.Batch(b'{"requests": [1, [2], %b]}' % GOOD).items(TASK)
    assert [isinstance(item, InvalidInput) for item in found] == [True, True, False]


@pytest.mark.parametrize("fast", [True, False])
def test_a_body_on_the_slow_path_is_parsed_once(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    monkeypatch.setattr(decoding, "parse", lambda body: parsed.append(body) or json.loads(body))
    batch = decoding.Batch(b'{"requests": [{"input_data": [1, 2, 3]}, {"input_data": [1, true]}]}', fast=fast)
    assert [isinstance(item, InvalidInput) for item in batch.items(TASK)] == [False, True]
    assert len(parsed) == 1


def test_objects_with_very_many_keys_take_the_slow_path() -> None:
    if arrays.simdjson is None:
        pytest.skip("orjson does not search")
    keys = ",".join(f'"k{number}": 0' for number in range(arrays._MOST_KEYS)).encode()
    assert arrays.read_simdjson(b'{"input_data": [1], %b}' % keys, TASK) is None
    assert arrays.read_items(b'{"requests": [], %b}' % keys) is None
    assert arrays.read_simdjson(b'{"input_data": [1], "%b": 0}' % (b"k" * 200), TASK) is None
    many = ",".join(f'"k{number}": [0]' for number in range(arrays._MOST_SERIES + 1)).encode()
    assert arrays.read_simdjson(b'{"readings": {%b}}' % many, GAUGES) is None


# Large bodies


def heavy_verdict(body: bytes) -> Any:
    found = verdict(lambda: large_json.read_heavy(TASK, body) or decoding.decode_slowly(TASK.Request, body))
    return found if found[0] == "taken" else "refused"


@settings(max_examples=400, deadline=None)
@given(bodies())
@example(GOOD)
@example(b'{"input_data": [1,[2],3]}')
@example(b'{"input_data": [[1,2,3]]}')
@example(b'{"input_data": [1,,3]}')
@example(b'{"input_data": [1 2,3]}')
@example(b'{"input_data": []}')
@example(b'{"input_data": [1,2,3], "model_version": "\\"[,\\\\"}')
@example(b'{"input_data": [1,2,3], "model_version": "a"')
@example(b'{"input_data": [1,2,3]} x')
@example(b"[1,2,3]")
def test_a_body_read_in_blocks_gets_the_verdict_of_the_pydantic_model(body: bytes) -> None:
    slow = verdict(lambda: decoding.decode_slowly(TASK.Request, body))
    found = heavy_verdict(body)
    if slow[0] == "taken" and found == "refused":  # the one difference: a field given twice is refused
        with pytest.raises(InvalidInput, match=r"is given twice|Extra inputs"):
            large_json.read_heavy(TASK, body)
    else:
        assert found == (slow if slow[0] == "taken" else "refused")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 17])
def test_the_size_of_the_blocks_does_not_matter(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_outline, "BLOCK", size)
    monkeypatch.setattr(large_json, "_BLOCK", size)
    body = b'{"note": "\\\\\\"[{,\\\\", "input_data" : [ 1, 2.5 ,-3e2 ], "more": {"a": [1, "]"]}}'
    assert [member.key for member in json_outline.outline(body).members] == ["note", "input_data", "more"]
    nested = [[[1.5, 2], [3, 4]], [[5, 6], [-7e3, 8]], [[0, 0], [1, 1]]]
    text = json.dumps(nested, indent=1).encode()
    assert large_json.read_numbers(text, 0, len(text), "FP32", "x").tolist() == nested
    for wrong in (b"[[1,2],[3]]", b"[[1],2]", b"[[1]2]", b"[1[2]]", b"[[1],[2]", b"[[1,],[2]]", b"[[],[]]", b"[1][2]"):
        with pytest.raises(InvalidInput, match=r"^x: "):
            large_json.read_numbers(wrong, 0, len(wrong), "FP32", "x")


@pytest.mark.parametrize(
    ("dtype", "text", "says"),
    [
        ("INT64", b"[1, 2.5]", "not floats"),
        ("INT64", b"[18446744073709551617]", "does not fit into INT64"),
        ("UINT8", b"[256]", "does not fit into UINT8"),
        ("FP32", b"[1e39]", "does not fit into FP32"),
        ("FP32", b"[1e400]", "not finite or does not fit"),
        ("FP32", b"[true]", "not booleans"),
        ("FP32", b'["a", "b"]', "not text"),
        ("BOOL", b"[true, 1]", "not numbers"),
    ],
)
def test_numbers_of_a_large_body_are_read_by_the_declared_type(dtype: str, text: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=f"^x: .*{says}"):
        large_json.read_numbers(text, 0, len(text), dtype, "x")


def test_whole_numbers_of_a_large_body_keep_their_digits() -> None:
    text = b"[18446744073709551615, 1]"
    assert large_json.read_numbers(text, 0, len(text), "UINT64", "x").tolist() == [2**64 - 1, 1]
    assert large_json.read_numbers(b"[true,false]", 0, 12, "BOOL", "x").tolist() == [True, False]


@pytest.mark.parametrize("size", [48, 49, 50, 51, 64])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(
        st.sampled_from(["\\", '"', "\n", "a", "é", "\u4e00", "😀", "\\ud83d", "/", "b" * 30, "\\" * 40]), max_size=60
    )
)
def test_a_long_text_is_read_in_blocks(size: int, parts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_json, "_BLOCK", size)
    text = "".join(parts)
    for ascii_only in (True, False):
        written = b" " + json.dumps(text, ensure_ascii=ascii_only).encode() + b" "
        assert large_json.read_text(written, 0, len(written)) == text


@pytest.mark.parametrize(
    "wrong", [b'"a"b"', b'"\\x"', b'"\\ud83d"', b'"\\ude00\\ud83d"', b'"\x01"', b'"\xff"', b'"\\u12"']
)
def test_a_long_text_that_is_not_json_is_refused(wrong: bytes) -> None:
    for padded in (wrong, wrong[:1] + b"\\n" * 70_000 + wrong[1:], wrong[:-1] + b"\\n" * 70_000 + wrong[-1:]):
        with pytest.raises(InvalidInput, match="not valid JSON"):
            large_json.read_text(padded, 0, len(padded))


def test_a_slow_body_is_read_in_blocks_and_unknown_fields_are_refused_before_they_are_parsed() -> None:
    numbers = b",".join([b"0.12345678901234567"] * (large_json.SLOW // 16))
    assert json_outline.is_light(numbers)
    request = read_json(TASK, b'{"input_data": [%b]}' % numbers)
    assert set(request.input_data.tolist()) == {0.12345678901234567}  # type: ignore[attr-defined]
    with pytest.raises(InvalidInput, match=r"^unknown: Extra inputs are not permitted$"):
        read_json(TASK, b'{"unknown": [%b]}' % numbers)
    text = "\\é\n" * large_json.SLOW
    body = json.dumps({"input_data": [1, 2, 3], "model_version": text}).encode()
    assert read_json(TASK, body).model_version == text  # type: ignore[attr-defined]


def listed(item: bytes, size: int) -> bytes:
    return b"[" + b",".join([item] * (size // (len(item) + 1))) + b"]"


def named(count: int, value: bytes = b"1") -> bytes:
    return b"{" + b",".join(b'"name%d":%b' % (number, value) for number in range(count)) + b"}"


TOO_LONG_TO_PARSE = {
    "numbers of thirty digits": listed(b"9" * 30, 12_000_000),
    "numbers of four thousand digits": listed(b"-" + b"9" * 4000, 12_000_000),
    "an object of very many names": named(60_000),
    "a text of escapes": b'["%b"]' % (b"\\n" * 6_000_000),
}


@pytest.mark.parametrize("kind", TOO_LONG_TO_PARSE)
def test_what_takes_a_parser_long_is_refused_before_it_is_parsed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*_: object, **__: object) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(large_json, "from_json", parse)
    for module in (TASK, GAUGES):
        monkeypatch.setattr(module.Request, "model_validate_json", parse)
    value = TOO_LONG_TO_PARSE[kind]
    assert not json_outline.is_light(value)
    for task, field in ((TASK, "model_version"), (GAUGES, "note")):
        with pytest.raises(InvalidInput, match=f"^{field}: too many values.* 16 MiB .*; send fewer, or sev"):
            read_json(task, b'{"%b": %b}' % (field.encode(), value))


def test_honest_documents_are_light() -> None:
    row = b"{%b}" % b",".join(b'"feature_%d":0.%d' % (number, 1234567 + number) for number in range(100))
    assert json_outline.is_light(b'{"rows":[%b]}' % b",".join([row] * 1024))
    assert json_outline.is_light(named(30_000))
    assert json_outline.is_light(listed(b"-0.12345678901234567", 8_000_000))
    assert json_outline.is_light(listed(b'"%b"' % (b"\\u0436" * 10_000), 128 * 60_000))  # Cyrillic, in ASCII
    assert json_outline.is_light(b'["%b"]' % (b"0123456789" * 1_500_000))  # digits in a text are no number


@pytest.mark.parametrize("size", [24, 64, 1000])
def test_what_weighs_more_weighs_the_same_in_blocks_of_any_size(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    document = b'{"a":%b,"b":"%b","c":%b}' % (named(6_000), b"9" * 3000 + b"\\n" * 50, b"[" + b"7" * 600 + b"]")
    weight = json_outline.outline(document, listed=False).weight
    monkeypatch.setattr(json_outline, "BLOCK", size)
    lighter = json_outline.outline(document, listed=False).weight
    assert weight >= lighter > weight - 24 * 20 * len(document) // size - 400 * 600 // size
    assert weight > 300 * 1_900 + 24 * 580


def test_many_unknown_fields_are_one_error() -> None:
    body = named(30_000)
    assert large_json.LARGE < len(body) < large_json.SLOW
    with pytest.raises(InvalidInput, match=r"^name0: Extra inputs are not permitted$"):
        read_json(TASK, body)


def test_the_errors_of_a_batch_do_not_hold_its_body() -> None:
    for padding in (b"", b" " * large_json.LARGE):
        body = b'{"requests": [{"input_data": ["a"]}, {"input_data": "b"}]%b}' % padding
        for error in decoding.Batch(body).items(TASK):
            assert isinstance(error, InvalidInput)
            assert error.__traceback__ is None
            assert error.__context__ is None


@pytest.mark.parametrize("piece", [1, 7, 1 << 19])
def test_a_mark_is_found_in_pieces(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_PIECE", piece)
    for before in range(20):
        assert decoding.holds(b" " * before + b'"task"' + b" " * 9, b'"task"')
        assert not decoding.holds(b" " * before + b'"tas"task', b'"task"')


def test_long_series_are_read_in_blocks() -> None:
    body = b'{"readings": {"p": [%b], "t": [2]}, "note": "a"}' % b",".join([b"1"] * large_json.SLOW)
    for read in (large_json.read_heavy, read_json):
        request = read(GAUGES, body)
        assert request is not None
        assert request.note == "a"  # type: ignore[attr-defined]
        assert request.readings == {"p": [1.0] * large_json.SLOW, "t": [2.0]}  # type: ignore[attr-defined]


def test_a_large_batch_is_read_item_by_item() -> None:
    values = [0.25] * 60_000
    large = json.dumps({"input_data": values}).encode()
    batch = decoding.Batch(b'{"model": "m", "requests": [%b, %b, 3, {"x": 1}]}' % (GOOD, large))
    assert batch.shell == {"model": "m", "requests": [None] * 4}
    good, long, number, unknown = batch.items(TASK)
    assert raised(good).input_data.tolist() == [1, 2.5, -300]  # type: ignore[attr-defined]
    assert raised(long).input_data.tolist() == values  # type: ignore[attr-defined]
    assert [type(each) for each in (number, unknown)] == [InvalidInput, InvalidInput]
    assert str(unknown).startswith("input_data: ")


@pytest.mark.parametrize("key", ["model", "input_data"])
def test_a_batch_has_no_long_field_but_its_requests(key: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{key}: too long for a field of a batch$"):
        decoding.Batch(b'{"%b": [%b], "requests": [%b]}' % (key.encode(), b",".join([b"0.25"] * 60_000), GOOD))


def test_a_large_body_may_name_its_task() -> None:
    body = b'{"task": "tensor", "input_data": [%b]}' % b",".join([b"0"] * 200_000)
    found = decoding.named_task(body, TASK)
    assert found is not None
    kind, read = found
    assert kind == "tensor"
    assert read(TASK).input_data.shape == (200_000,)  # type: ignore[attr-defined]


def test_after_a_slow_small_body_others_are_decoded_in_threads_for_a_while() -> None:
    measured = decoding.QuickDecoding()
    with measured:
        pass
    until = time.monotonic() + 0.01
    with measured:
        while time.monotonic() < until:
            with contextlib.suppress(InvalidInput):
                read_json(TASK, named(700))
    assert measured.again > until
