"""Model cards: Markdown with Hugging Face front matter, also as safe HTML."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_NOT_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
"""Characters that JSON holds as they are, and that YAML does not read or takes for the end of a line."""
_MOST_RENDERED = 1 << 18
"""Characters of a card; a longer one is shown as it is, since Markdown takes seconds for each megabyte."""
_FRONT_MATTER = re.compile(r"\A---\r?\n.*?^---\r?$\n?", re.DOTALL | re.MULTILINE)


def render_card(
    *,
    name: str,
    version: str,
    summary: str,
    intended_use: str,
    limits: str,
    training_data: str,
    license: str,
    datasets: Sequence[str] = (),
    metrics: Mapping[str, float | int | str] | None = None,
    tags: Sequence[str] = (),
    task_type: str = "image-classification",
    dataset_name: str = "",
    pipeline_tag: str | None = None,
) -> str:
    """The text of `card.md`. The prose arguments are Markdown.

    `metrics` are measured on `dataset_name`; the numbers among them go into the front matter's model-index, which
    Hugging Face's tools read. `task_type` and `pipeline_tag` are values that Hugging Face defines.
    """
    values = dict(metrics or {})
    front = front_matter(_fields(name, license, datasets, values, tags, task_type, dataset_name, pipeline_tag))
    sections = [
        f"# {name} {version}\n\n{summary.strip()}",
        section("Intended use", intended_use),
        section("Training data", training_data),
        section("Metrics", _metrics_table(values, dataset_name)),
        section("Limits", limits),
    ]
    return f"{front}\n" + "\n\n".join(part for part in sections if part) + "\n"


def _fields(
    name: str,
    license: str,
    datasets: Sequence[str],
    metrics: Mapping[str, float | int | str],
    tags: Sequence[str],
    task_type: str,
    dataset_name: str,
    pipeline_tag: str | None,
) -> dict[str, Any]:
    numbers = {key: value for key, value in metrics.items() if not isinstance(value, str)}
    dataset = dataset_name or (datasets[0] if datasets else "unknown")
    result = {
        "task": {"type": task_type},
        "dataset": {"name": dataset, "type": datasets[0] if datasets else dataset},
        "metrics": [{"type": key, "value": value} for key, value in numbers.items()],
    }
    return {
        "license": license,
        "library_name": "penstock",
        "pipeline_tag": pipeline_tag or task_type,
        "datasets": list(datasets),
        "metrics": list(numbers),
        "tags": list(tags),
        "model-index": [{"name": name, "results": [result]}] if numbers else [],
    }


def yaml_value(value: Any) -> str:
    """A value as JSON in one line, which is valid YAML: no value can break out of its line."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _NOT_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def front_matter(fields: Mapping[str, Any]) -> str:
    """The YAML at the top of a card; empty fields are left out."""
    lines = [f"{key}: {yaml_value(value)}" for key, value in fields.items() if value]
    return "\n".join(["---", *lines, "---", ""])


def section(title: str, text: str) -> str:
    """Markdown under a heading; empty without text."""
    return f"## {title}\n\n{text.strip()}" if text.strip() else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; None is an empty cell, and no cell breaks out of its row."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(map(_cell, row)) + " |" for row in rows)])


def _metrics_table(metrics: Mapping[str, float | int | str], dataset_name: str) -> str:
    if not metrics:
        return ""
    measured = f"Measured on {dataset_name}.\n\n" if dataset_name else ""
    return measured + table(("metric", "value"), metrics.items())


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def card_html(markdown: str) -> str:
    """A card's body as an HTML fragment, without its front matter.

    Raw HTML is escaped, links of unsafe schemes are left as text, and images become links, so the page runs no code
    and requests nothing from other hosts.
    """
    if len(markdown) > _MOST_RENDERED:
        return f"<pre>{html.escape(markdown)}</pre>"
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    return str(parser.render(_FRONT_MATTER.sub("", markdown)))
