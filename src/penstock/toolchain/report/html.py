"""One self-contained HTML page: no script, no request to any host, light and dark as the reader's system, printable."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any, NamedTuple

from penstock.toolchain.report.plots import Plot
from penstock.toolchain.report.svg import element, plain
from penstock.toolchain.report.wording import NOTHING, finite, number

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""Even if some name slipped through as markup, nothing would run and nothing would be requested."""


_NUMBER = ' class="number"'


class Markup(NamedTuple):
    """A cell that is markup already; `right` for a number."""

    html: str
    right: bool = False


def page(title: str, *body: str) -> str:
    """The whole document."""
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<link rel="icon" href="data:,">'
        f"<title>{plain(title)}</title><style>{style}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>{"".join(body)}</main></body></html>\n'


def section(heading: str, *content: str) -> str:
    """A part of the page; nothing without content."""
    inside = "".join(content)
    return element("section", element("h2", plain(heading)), inside) if inside else ""


def paragraph(text: str, **attributes: object) -> str:
    """A paragraph of text; nothing without text."""
    return element("p", plain(text), **attributes) if text else ""


def figure(heading: str, plot: Plot) -> str:
    """A plot with its heading, what it leaves out, and its data as a table that opens."""
    table = details("Data as a table", data_table(plot.columns, plot.rows))
    note = element("figcaption", plain(plot.note)) if plot.note else ""
    return element("figure", element("h3", plain(heading)), element("div", plot.svg, class_="plot"), note, table)


def figures(plots: Iterable[str]) -> str:
    """Small figures side by side."""
    inside = "".join(plots)
    return element("div", inside, class_="grid") if inside else ""


def details(summary: str, *content: str, opened: bool = False) -> str:
    """What opens on a click, and on paper."""
    inside = element("summary", plain(summary)) + "".join(content)
    return f"<details{' open' if opened else ''}>{inside}</details>"


def data_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; columns of numbers stand right. A cell of `Markup` is written as it is, anything else escaped."""
    cells = [[_cell(value) for value in row] for row in rows]
    right = [all(row[place].right for row in cells) for place in range(len(columns))]
    heads = "".join(
        f'<th scope="col"{_NUMBER if stands_right else ""}>{plain(column)}</th>'
        for column, stands_right in zip(columns, right, strict=True)
    )
    lines = "".join(f"<tr>{''.join(map(_written, range(len(row)), row))}</tr>" for row in cells)
    inside = f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="table"><table>{inside}</table></div>'


def _cell(value: Any) -> Markup:
    if isinstance(value, Markup):
        return value
    if value is None or finite(value) or isinstance(value, float):
        return Markup(number(value), right=True)
    return Markup(plain(value))


def _written(place: int, cell: Markup) -> str:
    tag, scope = ("td", "") if place else ("th", ' scope="row"')
    return f"<{tag}{scope}{_NUMBER if cell.right else ''}>{cell.html}</{tag}>"


def cards(facts: Iterable[tuple[str, str, str]]) -> str:
    """Key figures: what it is, its value, and a remark."""
    made = [
        element(
            "div",
            element("dt", plain(name)),
            element("dd", plain(value), element("small", plain(remark))),
            class_="card",
        )
        for name, value, remark in facts
    ]
    return element("dl", *made, class_="cards") if made else ""


def facts(values: Mapping[str, Any]) -> str:
    """Names and values; the names of nested values are joined with a point."""
    rows = [element("dt", plain(name)) + element("dd", plain(value)) for name, value in _flat(values)]
    return element("dl", *rows, class_="facts") if rows else ""


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{before}{name}.")
        elif isinstance(value, list | tuple):
            rows.append((f"{before}{name}", ", ".join(map(str, value)) or NOTHING))
        else:
            rows.append((f"{before}{name}", NOTHING if value is None else str(value)))
    return rows


def document(value: Any) -> str:
    """Data as indented JSON."""
    return f"<pre><code>{escape(json.dumps(value, indent=2, default=str))}</code></pre>"


def badge(text: str, kind: str) -> Markup:
    """A word with a colour; `kind` is good, bad or neutral."""
    return Markup(element("span", plain(text), class_=f"badge {kind}"))
