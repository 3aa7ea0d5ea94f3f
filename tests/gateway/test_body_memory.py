"""No body makes the server allocate more than 12 times its size and 32 MiB."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from live_servers import Process
from served_models import build_registry
from waiting import LONG_S
from zoo_text import LABELS, write_tabular, write_text_classifier

from penstock.artifacts.artifact import TaskEntry, VariantSource, write_artifact
from penstock.gateway.process.sockets import free_address
from penstock.registry.registry import Registry
from penstock.tensors import Signature, TensorSpec

SIZE = 1_500_000
MIB = 1 << 20


def filled(item: bytes) -> bytes:
    return b"[" + b",".join([item] * (SIZE // (len(item) + 1))) + b"]"


def fields(member: bytes) -> bytes:
    count = SIZE // (len(member) + 7)
    return b"{" + b",".join(b'"a%d":%b' % (number, member) for number in range(count)) + b"}"


VALUES = {
    "empty lists": filled(b"[]"),
    "ragged lists": filled(b"[1],[1,2]"),
    "objects": filled(b'{"a":1}'),
    "deep lists": b"[" * (SIZE // 2) + b"]" * (SIZE // 2),
    "deep and open": b"[" * SIZE,
    "digits": filled(b"0"),
    "numbers": filled(b"1.5"),
    "texts": filled(b'"a"'),
    "null": filled(b"null"),
    "fields": fields(b"1"),
    "a long text": b'"' + b"a" * SIZE + "😀".encode() + b'"',
    "escapes": b'"' + b"\\u00e9" * (SIZE // 6) + b'"',
    "escaped quotes": b'"' + b'\\"' * (SIZE // 2) + b'"',
    "base64": b'"' + base64.b64encode(bytes(SIZE * 3 // 4)) + b'"',
}
PLACES = {
    "vec": b'{"input_data":%b}',
    "raw": b'{"inputs":{"a":%b,"b":[[1,2]]}}',
    "pic": b'{"image":%b}',
    "tab": b'{"rows":%b}',
    "txt": b'{"text":%b}',
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    root = tmp_path_factory.mktemp("memory")
    path = build_registry(root)
    publish_texts_and_tables(root, path)
    arguments = ("--registry", str(path), "vec", "raw", "pic", "tab", "txt")
    process = Process(root, free_address("127.0.0.1", 0)[1], *arguments)
    try:
        process.wait_for()
        yield process
    finally:
        process.end()


def publish_texts_and_tables(root: Path, path: Path) -> None:
    """`txt` counts words, `tab` prices rows of an age and a city."""
    write_text_classifier(root / "txt.onnx")
    write_tabular(root / "tab.onnx")
    text, label, logits = (
        TensorSpec("text", "BYTES", (-1,)),
        TensorSpec("label", "BYTES", (-1,)),
        TensorSpec("logits", "FP32", (-1, len(LABELS))),
    )
    age, city, price = (TensorSpec(*spec, (-1, 1)) for spec in (("age", "FP32"), ("city", "BYTES"), ("price", "FP32")))
    columns = [{"name": "age", "type": "number"}, {"name": "city", "type": "text"}]
    tasks = {
        "txt": (
            TaskEntry(kind="text-classification", config={"scores": "logits"}),
            Signature((text,), (label, logits)),
        ),
        "tab": (TaskEntry(kind="tabular", config={"columns": columns}), Signature((age, city), (price,))),
    }
    with Registry(path) as registry:
        for name, (task, signature) in tasks.items():
            variants = [VariantSource("onnx", "fp32", root / f"{name}.onnx")]
            source = root / f"source-{name}"
            registry.publish(
                write_artifact(
                    source,
                    name=name,
                    version="1",
                    task=task,
                    signature=signature,
                    variants=variants,
                    golden=None,
                    card="# A model\n",
                ).path
            )


def memory(process: Process, field: str) -> int:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise AssertionError(field)


def check(process: Process, path: str, body: bytes) -> None:
    before = memory(process, "VmRSS")
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak starts again
    answer = httpx.post(process.url + path, content=body, headers={"Content-Type": "application/json"}, timeout=LONG_S)
    taken = memory(process, "VmHWM") - before
    assert answer.status_code in (200, 422), answer.text[:300]
    assert taken <= 12 * len(body) + 32 * MIB, f"{taken / MIB:.0f} MiB for {len(body) / MIB:.1f} MiB"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system does not record the peak")
@pytest.mark.parametrize("value", VALUES)
def test_a_body_of_any_kind_is_read_in_bounded_memory(server: Process, value: str) -> None:
    written = VALUES[value]
    for model, place in PLACES.items():
        check(server, f"/models/{model}/predict", place % written)
    check(server, "/predict/batch", b'{"model":"raw","requests":[%b]}' % (PLACES["raw"] % written))
    check(server, "/predict/batch", b'{"requests":%b}' % written)
    check(server, "/models/raw/predict", b'{"unknown":%b}' % written)
