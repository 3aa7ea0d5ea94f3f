from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from published_models import Small, rows

from penstock.cli.options import open_registry, read_settings

MODELS = Path(__file__).parents[1] / "support" / "published_models.py"
SCRIPT = ("--formats", "torchscript-script")


@pytest.fixture(params=["sqlite"])
def database(request):
    """One database is enough: what depends on it is tested where it is written to."""
    return lambda registry: f"sqlite:///{registry}/registry.db"


@pytest.fixture
def models(tmp_path):
    """A user's module in the working directory, under a name that no other test imports."""
    name = f"user_models_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODELS.read_text())
    return name


def listed() -> list[str]:
    with open_registry(read_settings()) as registry:
        return [artifact.ref for artifact in registry.artifacts()]


def test_a_factory_of_the_working_directory_is_exported_verified_and_published(penstock, models):
    done = penstock("export", f"{models}:make_small", "--name", "small", "--version", "1.0.0", *SCRIPT, "--json")
    assert done.code == 0, done.err
    document = done.json()
    assert list(document) == ["ref", "variants", "batchable"]
    assert (document["ref"], document["batchable"]) == ("small:1.0.0", True)
    (one,) = document["variants"]
    assert (one["name"], one["format"], one["precision"]) == ("torchscript-script-fp32", "torchscript", "fp32")
    assert (one["status"], one["why"]) == ("published", "")
    assert one["max_abs"] < 1e-6
    assert one["top1"] == 1.0
    assert listed() == ["small:1.0.0"]
    predicted = penstock("predict", "small", "-", stdin=b"[[0.1, 0.2, 0.3, 0.4]]")
    assert predicted.code == 0, predicted.err


def test_people_get_a_table_and_what_is_live(penstock, models):
    done = penstock("export", f"{models}:make_training", "--name", "small", *SCRIPT, "--alias", "canary")
    assert done.code == 0, done.err
    assert "note: the model was in training mode" in done.out
    assert "torchscript-script-fp32" in done.out
    assert "published small:v1.0 to" in done.out
    assert "live: small:v1.0 (champion)" in done.out
    assert penstock("models", "show", "small@canary").code == 0


def test_one_good_form_is_enough(penstock, models):
    forms = ("--formats", "torchscript-trace,torchscript-script")
    done = penstock("export", f"{models}:make_branching", "--name", "m", *forms, "--json")
    assert done.code == 0, done.err
    assert [one["status"] for one in done.json()["variants"]] == ["refused", "published"]


def test_without_a_good_form_nothing_is_published(penstock, models):
    done = penstock("export", f"{models}:make_inexact", "--name", "m", *SCRIPT)
    assert done.code == 1
    assert "refused" in done.out
    assert "output 'output', sample" in done.out
    assert "nothing was published" in done.err
    assert listed() == []
    again = penstock("export", f"{models}:make_inexact", "--name", "m", *SCRIPT, "--json")
    assert again.code == 1
    assert again.json()["variants"][0]["status"] == "refused"


def test_a_wider_tolerance_is_an_option(penstock, models):
    done = penstock("export", f"{models}:make_inexact", "--name", "m", *SCRIPT, "--atol", "0.01", "--rtol", "0.01")
    assert done.code == 0, done.err


def test_an_example_file_weights_and_labels_are_used(penstock, models, tmp_path):
    from safetensors.torch import save_file

    save_file(Small().state_dict(), tmp_path / "w.safetensors")
    np.savez(tmp_path / "x.npz", x=rows(3).numpy())
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    done = penstock(
        "export", f"{models}:make_alone", "--name", "m", "--weights", "w.safetensors", "--example", "x.npz",
        "--labels", "labels.txt", "--task", "vector-classification", "--dynamic", "x:0=people", *SCRIPT,
    )  # fmt: skip
    assert done.code == 0, done.err
    with open_registry(read_settings()) as registry:
        manifest = registry.get("m").manifest
    assert manifest.task.config["labels"] == ["a", "b", "c"]
    assert manifest.signature.inputs[0].dims[0] == "people"
    assert manifest.golden is not None
    assert manifest.golden.rows == 3


def test_described_inputs_need_no_example(penstock, models):
    done = penstock("export", f"{models}:make_alone", "--name", "m", "--input", "x:FP32:-1,4", *SCRIPT)
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("factory", "options", "code", "sentence"),
    [
        ("make_small", ("--formats", "tensorrt"), 1, "'tensorrt' is not a form to export to"),
        ("make_small", ("--name", "no/name"), 1, "name: 'no/name' is not a name"),
        ("make_small", ("--version", "a b"), 1, "version: 'a b' is not a version"),
        ("make_small", ("--dynamic", "z:0"), 1, "z"),
        ("make_small", ("--dynamic", "x:9"), 1, "9"),
        ("make_small", ("--dynamic", "x"), 2, "--dynamic: 'x' is not of the form"),
        ("make_small", ("--input", "x:FP32"), 2, "--input: 'x:FP32' is not of the form"),
        ("make_small", ("--weights", "none.pt"), 1, "none.pt"),
        ("make_small", ("--example", "none.npz"), 1, "none.npz"),
        ("make_error", (), 1, "there are no weights here"),
        ("make_nothing", (), 1, "returned None"),
        ("no_such", (), 1, "no_such"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_publishes_nothing(penstock, models, factory, options, code, sentence):
    done = penstock("export", f"{models}:{factory}", "--name", "m", *SCRIPT, *options)
    assert done.code == code, done.err
    assert sentence in " ".join(done.err.replace("│", " ").split())
    assert "Traceback" not in done.err
    assert not Path("registry").exists()
