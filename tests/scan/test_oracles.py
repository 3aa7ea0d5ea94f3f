"""Two other scanners of pickles, which have lists of what is forbidden, find nothing in what ours calls data."""

from __future__ import annotations

import collections
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from crafted import members
from fickling.analysis import Severity, check_safety
from fickling.fickle import Pickled
from hostile_pickles import CALLS, FORMS, dumped, short
from hypothesis import given, settings
from hypothesis import strategies as st
from picklescan.scanner import scan_pickle_bytes

from penstock.scan.pickles import WEIGHTS
from penstock.scan.scanner import scan_bytes

PICKLES = ("m.pkl", "m.pt", "m")
OTHERS = ("m.txt", "m.json", "m.npy", "m.onnx")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Picklescan logs what it finds."""
    logging.getLogger("picklescan").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("picklescan").setLevel(logging.NOTSET)


def found_by_picklescan(data: bytes, *, errors: bool = True) -> bool:
    result = scan_pickle_bytes(io.BytesIO(data), "m.pkl")
    return result.issues_count > 0 or (errors and result.scan_err)


def found_by_fickling(data: bytes, *, errors: bool = True) -> bool:
    """True for anything that is not safe, every error included, unless it only objects to names that weights need.

    Text is no pickle at all to both: then an error says nothing.
    """
    try:
        pickled = Pickled.load(io.BytesIO(data))
        safe = check_safety(pickled).severity <= Severity.SUSPICIOUS
        imported = {f"{each.module}.{name.name}" for each in pickled.properties.imports for name in each.names}
    except Exception:  # as its authors advise
        return errors
    return not safe and not imported <= WEIGHTS | {"builtins.set", "builtins.bytearray"}


def is_data(data: bytes, name: str) -> bool:
    return not scan_bytes(memoryview(data), Path(name)).against("data")


@pytest.mark.parametrize("what", [*CALLS, *FORMS])
def test_every_hostile_pickle_is_found_by_ours_and_by_another(what: str) -> None:
    data = {**CALLS, **FORMS}[what]
    assert found_by_picklescan(data) or found_by_fickling(data)
    assert not is_data(data, "m.pkl")


def test_what_ours_calls_data_is_weights_to_the_others() -> None:
    buffer = io.BytesIO()
    state = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).state_dict()
    torch.save({"w": state, "p": torch.nn.Parameter(torch.ones(1)), "n": collections.OrderedDict(a={1, 2})}, buffer)
    weights = next(data for name, data in members(buffer.getvalue()).items() if name.endswith("data.pkl"))
    for data in (weights, *dumped({"a": [1, (2, "b")]}), *dumped({1, 2})):
        assert is_data(data, "m.pt")
        assert not found_by_picklescan(data)
        assert not found_by_fickling(data)


MODULES = [
    "os",
    "posix",
    "nt",
    "subprocess",
    "builtins",
    "__builtin__",
    "sys",
    "importlib",
    "runpy",
    "shutil",
    "socket",
    "pty",
    "ctypes",
    "code",
    "codeop",
    "bdb",
    "pip._internal",
    "torch.hub",
    "torch._utils",
    "torch",
    "collections",
    "_codecs",
    "numpy.core.multiarray",
    "acme.sub",
    "webbrowser",
]
ATTRIBUTES = [
    "system",
    "eval",
    "exec",
    "getattr",
    "import_module",
    "call",
    "load",
    "OrderedDict",
    "encode",
    "run",
    "Popen",
    "_rebuild_tensor_v2",
]
NEUTRAL = [
    b"",
    b"N0",
    b"I1\n0",
    b"]0",
    b")0",
    b"}0",
    b"(0",
    b"(l0",
    b"K\x050",
    b"U\x01a0",
    b"X\x01\0\0\0a0",
    b"NN\x860",
]


@st.composite
def pickles(draw: st.DrawFn) -> bytes:
    """Something before, a name in one of the forms that there are, a call in one of theirs, something after."""
    module, name = draw(st.sampled_from(MODULES)), draw(st.sampled_from(ATTRIBUTES))
    start = draw(st.sampled_from([b"", b"\x80\x02", b"\x80\x04"]))
    noise = b"".join(draw(st.lists(st.sampled_from(NEUTRAL), max_size=3)))
    argument = b"S'touch marker'\n"
    looked_up = draw(
        st.sampled_from(
            [
                f"c{module}\n{name}\n".encode(),
                short(module) + short(name) + b"\x93",
                short(name) + b"q\x070" + short(module) + b"h\x07\x93",
                short(module) + b"\x94" + short(name) + b"\x94\x93",
                f"X{chr(len(module))}\0\0\0{module}".encode() + short(name) + b"\x93",
            ]
        )
    )
    called = draw(
        st.sampled_from(
            [
                looked_up,
                looked_up + b"(" + argument + b"tR",
                looked_up + argument + b"\x85R",
                looked_up + b")R",
                looked_up + b")\x81",
                looked_up + b")\x81}b",
                b"(" + looked_up + argument + b"o",
                b"(" + argument + f"i{module}\n{name}\n".encode(),
                b"]" + looked_up + argument + b"\x85Ra",
            ]
        )
    )
    return start + noise + called + draw(st.sampled_from([b".", b".", b"0N.", b"", b"\xff", b".more text\n"]))


@settings(max_examples=300)
@given(pickles())
def test_what_ours_calls_data_no_other_objects_to(data: bytes) -> None:
    for names, errors in ((PICKLES, True), (OTHERS, False)):
        taken_for_data = [name for name in names if is_data(data, name)]
        if taken_for_data:
            assert not found_by_picklescan(data, errors=errors), taken_for_data
            assert not found_by_fickling(data, errors=errors), taken_for_data
