from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from penstock.errors import ModelLoadError
from penstock.tasks import catalog
from penstock.tasks.base import Task
from penstock.tasks.vector import VectorClassification
from penstock.tensors import Signature, TensorSpec


def spec(name="t", dtype="FP32", shape=(-1, 4)):
    return TensorSpec(name, dtype, shape)


@pytest.fixture
def plugins(monkeypatch):
    """Installs entry points for one test: plugins(kind="module:Class")."""

    def install(**targets):
        entries = [EntryPoint(name, value, catalog.GROUP) for name, value in targets.items()]
        monkeypatch.setattr(catalog, "entry_points", lambda *, group: [e for e in entries if e.group == group])

    return install


@pytest.mark.parametrize("kind", sorted(catalog.BUILT_IN))
def test_every_built_in_kind_names_its_class(kind):
    assert catalog.task_class(kind).kind == kind


def test_the_package_declares_its_tasks_as_entry_points():
    assert {kind: catalog._plugins()[kind] for kind in catalog.BUILT_IN} == catalog.BUILT_IN


def test_a_task_is_loaded_with_its_settings(signature):
    task = catalog.load_task("vector-classification", {"labels": ["a", "b", "c"]}, signature((-1, 4)))
    assert isinstance(task, VectorClassification)
    assert task.features == 4


def test_an_unknown_kind_is_refused_with_the_known_ones(plugins):
    plugins(mine="penstock.tasks.vector:VectorClassification")
    with pytest.raises(ModelLoadError, match=r"'nothing'.*image-classification, json, mine, tabular, tensor"):
        catalog.task_class("nothing")


def test_a_package_can_add_a_kind(plugins):
    plugins(mine="penstock.tasks.vector:VectorClassification")
    assert catalog.task_class("mine") is VectorClassification


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_package.tasks:Task", "ModuleNotFoundError"),
        ("penstock.tasks.vector:NoSuchTask", "AttributeError"),
        ("penstock.tasks.vector:VectorRequest", "not a subclass of Task"),
        ("penstock.tasks.vector", "could not be loaded"),
    ],
)
def test_a_broken_plugin_is_a_load_error_that_names_it(plugins, target, message):
    plugins(mine=target)
    with pytest.raises(ModelLoadError, match=f"'mine'.*{message}") as caught:
        catalog.task_class("mine")
    assert target in str(caught.value)


def test_a_package_cannot_take_the_name_of_a_built_in_task(plugins):
    plugins(tensor="penstock.tasks.vector:VectorClassification")
    assert catalog.task_class("tensor").kind == "tensor"


@pytest.mark.parametrize(
    ("inputs", "outputs", "kind"),
    [
        ((spec(),), (spec(shape=(-1, 3)),), "vector-classification"),
        ((spec(),), (spec(shape=(-1, 1)),), "tensor"),
        ((spec(shape=(-1, -1)),), (spec(shape=(-1, 3)),), "tensor"),
        ((spec(),), (spec(shape=(-1, -1)),), "tensor"),
        ((spec(shape=(1, 4)),), (spec(shape=(1, 3)),), "tensor"),
        ((spec(shape=(-1, 3, 8, 8)),), (spec(),), "tensor"),
        ((spec(dtype="INT64"),), (spec(),), "tensor"),
        ((spec("a"), spec("b")), (spec(),), "tensor"),
        ((spec(),), (spec("a"), spec("b")), "tensor"),
    ],
)
def test_a_bare_model_is_a_vector_classifier_only_where_its_signature_fits(inputs, outputs, kind):
    assert catalog.task_for_bare(Signature(inputs, outputs)) == kind


def test_vectors_and_tensors_need_no_pillow():
    code = (
        "import sys; from penstock.tasks import catalog;"
        "catalog.task_class('vector-classification'); catalog.task_class('tensor');"
        "sys.exit(any(name.split('.')[0] in ('PIL', 'torch', 'onnxruntime', 'fastapi') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Unfinished(VectorClassification):
    """A task with a bug in the code that reads its settings."""

    kind = "unfinished"

    def __init__(self, config, signature):
        raise KeyError("first line\nsecond line")


class Nameless(Task):
    """A task without the required attributes."""

    def preprocess(self, request):
        return {}

    def postprocess(self, outputs, request):
        raise NotImplementedError


def test_a_task_that_fails_while_it_is_set_up_is_refused_in_one_line(plugins, signature):
    plugins(unfinished=f"{__name__}:Unfinished")
    with pytest.raises(ModelLoadError, match=r"^the task 'unfinished' could not be set up: KeyError: .*second line'$"):
        catalog.load_task("unfinished", {}, signature((-1, 4)))


def test_a_task_without_the_required_attributes_is_refused(plugins, signature):
    plugins(nameless=f"{__name__}:Nameless")
    with pytest.raises(ModelLoadError, match="does not define kind and Request and Response"):
        catalog.load_task("nameless", {}, signature((-1, 4)))
