from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.artifacts.card import card_html, render_card, yaml_value

yaml = pytest.importorskip("yaml")


def _card(**changes: object) -> str:
    fields = {
        "name": "digits",
        "version": "v1.0",
        "summary": "Reads digits.",
        "intended_use": "Demonstrations.",
        "limits": "Nothing else.",
        "training_data": "1,797 images.",
        "license": "apache-2.0",
        "datasets": ["load_digits"],
        "metrics": {"accuracy": 0.98765, "errors": 4, "note": "a|b"},
        "tags": ["onnx", "a: b # c"],
        "dataset_name": "the held-out fifth",
    }
    return render_card(**(fields | changes))  # type: ignore[arg-type]


def _front_matter(card: str) -> dict[str, object]:
    _, front, _ = card.split("---\n", 2)
    data = yaml.safe_load(front)
    assert isinstance(data, dict)
    return data


def test_the_front_matter_is_what_hugging_face_reads() -> None:
    front = _front_matter(_card())
    assert front["license"] == "apache-2.0"
    assert front["datasets"] == ["load_digits"]
    assert front["metrics"] == ["accuracy", "errors"]
    assert front["tags"] == ["onnx", "a: b # c"]
    assert front["model-index"] == [
        {
            "name": "digits",
            "results": [
                {
                    "task": {"type": "image-classification"},
                    "dataset": {"name": "the held-out fifth", "type": "load_digits"},
                    "metrics": [{"type": "accuracy", "value": 0.98765}, {"type": "errors", "value": 4}],
                }
            ],
        }
    ]


def test_the_sections_are_there_in_order() -> None:
    card = _card()
    assert re.findall(r"^#+ .*$", card, re.MULTILINE) == [
        "# digits v1.0", "## Intended use", "## Training data", "## Metrics", "## Limits",
    ]  # fmt: skip
    assert "| accuracy | 0.98765 |\n| errors | 4 |\n| note | a\\|b |" in card


def test_empty_sections_of_a_card_are_omitted() -> None:
    card = _card(metrics=None, datasets=(), tags=(), limits="")
    assert "## Metrics" not in card
    assert "## Limits" not in card
    assert set(_front_matter(card)) == {"license", "library_name", "pipeline_tag"}


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(deadline=None)
def test_no_value_breaks_out_of_the_front_matter(text: str) -> None:
    front = _card(tags=[text], license=text + "x").split("\n# digits", 1)[0]
    lines = front.split("\n")
    assert lines[0] == lines[-2] == "---"
    assert "---" not in lines[1:-2]
    assert len(lines) == len(_card().split("\n# digits", 1)[0].split("\n"))


@given(st.text())
@settings(deadline=None)
def test_yaml_reads_every_text_of_the_front_matter(text: str) -> None:
    assert yaml.safe_load(yaml_value([text])) == [text]


def test_a_card_becomes_html_without_its_front_matter() -> None:
    page = card_html(_card())
    assert page.startswith("<h1>digits v1.0</h1>")
    assert "<td>accuracy</td>" in page
    assert "apache-2.0" not in page


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[a](javascript:alert(1))",
        "[a](JaVaScRiPt:alert(1))",
        "[a](data:text/html;base64,PHNjcmlwdD4=)",
        "![a](http://example.com/pixel.png)",
        "<https://example.com/><iframe src=//example.com>",
        '[a](http://e.com "\\" onclick=alert(1) \\"")',
    ],
)
def test_a_card_cannot_run_or_load_anything(text: str) -> None:
    page = card_html(f"# A\n\n{text}\n")
    tags = re.findall(r"<(\w+)([^>]*)>", page)
    assert {name for name, _ in tags} <= {"h1", "p", "a"}
    for _, attributes in tags:
        assert re.fullmatch(r'( href="https?://[^"]*")?( title="[^"]*")?', attributes)


def test_a_rule_at_the_top_is_not_front_matter() -> None:
    assert card_html("---\n\ntext") == "<hr />\n<p>text</p>\n"


def test_a_card_that_would_take_seconds_to_render_is_shown_as_text() -> None:
    assert card_html("# A <b>\n" + "x" * (1 << 18)).startswith("<pre># A &lt;b&gt;\nxxx")
