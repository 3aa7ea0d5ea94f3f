"""Writes the records of a prediction log as JSONL, CSV or Parquet, for other tools."""

from __future__ import annotations

import csv
import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson

from penstock.datatypes import datatype_of_numpy
from penstock.errors import ConfigError
from penstock.monitor.prediction_log.records import TENSORS, Record, moment
from penstock.tensors import Arrays

FORMATS = ("jsonl", "csv", "parquet")
_AT_ONCE = 1000
FIELDS = [name for name in Record.__dataclass_fields__ if name not in (*TENSORS, "extra")]
"""The columns, before the tensors."""


def export(records: Iterable[Record], target: Path, form: str) -> int:
    """Write the records to a file, which is complete or not there: how many. Raises ConfigError, OSError."""
    new = target.with_name(f".{target.name}.new")
    try:
        count = _WRITERS[form](records, new)
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)
    return count


def plain(record: Record) -> dict[str, Any]:
    """A record as other tools read it: tensors as nested lists."""
    document = {name: getattr(record, name) for name in FIELDS}
    document["at"] = moment(record.at)
    for name in TENSORS:
        arrays: Arrays | None = getattr(record, name)
        document[name] = None if arrays is None else {tensor: _lists(array) for tensor, array in arrays.items()}
    return document


def _lists(array: Any) -> Any:
    if array.dtype.hasobject:
        return _texts(array).tolist()
    return array.tolist()


def _texts(array: Any) -> Any:
    made = np.empty(array.size, object)
    made[:] = [value.decode("utf-8", "replace") for value in array.ravel().tolist()]
    return made.reshape(array.shape)


def jsonl(records: Iterable[Record]) -> Iterator[bytes]:
    """Each record as a line of JSON; NaN and infinity are null."""
    return (orjson.dumps(plain(record), option=orjson.OPT_APPEND_NEWLINE) for record in records)


def _write_jsonl(records: Iterable[Record], file: Path) -> int:
    count = 0
    with file.open("wb") as out:
        for line in jsonl(records):
            out.write(line)
            count += 1
    return count


def _write_csv(records: Iterable[Record], file: Path) -> int:
    """Tensors are JSON in their cells."""
    with file.open("w", newline="", encoding="utf-8") as out:
        return write_csv(records, out)


def write_csv(records: Iterable[Record], out: IO[str]) -> int:
    """The records as CSV with a head: how many."""
    writer = csv.writer(out)
    writer.writerow([*FIELDS, *TENSORS])
    count = 0
    for record in records:
        row = plain(record)
        tensors = ("" if row[name] is None else orjson.dumps(row[name]).decode() for name in TENSORS)
        writer.writerow([*(row[name] for name in FIELDS), *tensors])
        count += 1
    return count


def _write_parquet(records: Iterable[Record], file: Path) -> int:
    """Tensors are lists: their name, datatype, shape, and values or texts."""
    try:
        pyarrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise ConfigError("Parquet needs pyarrow; pip install 'penstock[parquet]', or export jsonl or csv") from None
    schema = _schema(pyarrow)
    rows, count = iter(records), 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while some := [_row(record) for record in itertools.islice(rows, _AT_ONCE)]:
            writer.write_table(pyarrow.Table.from_pylist(some, schema))
            count += len(some)
    return count


def _schema(arrow: Any) -> Any:
    text, times, tensor = (
        arrow.string(),
        arrow.float64(),
        arrow.struct(
            [
                ("name", arrow.string()),
                ("dtype", arrow.string()),
                ("shape", arrow.list_(arrow.int64())),
                ("values", arrow.list_(arrow.float64())),
                ("texts", arrow.list_(arrow.binary())),
            ]
        ),
    )
    kinds = {
        "at": arrow.timestamp("ms", "UTC"),
        "item": arrow.int64(),
        "rows": arrow.int64(),
        "batch_rows": arrow.int64(),
    }
    columns = [(name, kinds.get(name, times if name.endswith("_ms") else text)) for name in FIELDS]
    return arrow.schema([*columns, *((name, arrow.list_(tensor)) for name in TENSORS)])


def _row(record: Record) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in FIELDS}
    row["at"] = int(record.at * 1000)
    for name in TENSORS:
        arrays: Arrays | None = getattr(record, name)
        row[name] = None if arrays is None else [_tensor(*pair) for pair in arrays.items()]
    return row


def _tensor(name: str, array: Any) -> dict[str, Any]:
    texts = array.ravel().tolist() if array.dtype.hasobject else None
    values = None if texts is not None else array.ravel().astype(np.float64)
    dtype = datatype_of_numpy(array.dtype) or str(array.dtype)
    return {"name": name, "dtype": dtype, "shape": list(array.shape), "values": values, "texts": texts}


_WRITERS: Mapping[str, Callable[[Iterable[Record], Path], int]] = {
    "jsonl": _write_jsonl,
    "csv": _write_csv,
    "parquet": _write_parquet,
}
