"""The models that a process should load, and the resolution of references."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.artifacts.refs import name_of
from penstock.engine.deployment.serving_plan import ModelUnloaded, ServingPlan
from penstock.errors import ModelNotFound
from penstock.registry.deployment import Deployment

ALIASES = {"a": {"live": "1"}, "b": {"live": "2"}}
HIGHEST = "2"
REFS = [f"{name}{rest}" for name in "abc" for rest in ("", ":1", ":2", "@live")]
CHANGES = st.lists(st.tuples(st.sampled_from(["load", "unload"]), st.sampled_from(REFS)), max_size=6)


@st.composite
def plans(draw: st.DrawFn) -> ServingPlan:
    def deployment() -> Deployment:
        value = Deployment(aliases=ALIASES)
        for verb, ref in draw(CHANGES):
            value = getattr(value, verb)(ref)
        return value

    arguments = tuple(draw(st.lists(st.sampled_from(REFS), unique=True, max_size=3)))
    return ServingPlan(arguments, deployment(), deployment(), ("a", "b", "c"), draw(st.integers(1, 3)))


def key_of(ref: str) -> str:
    """The registry of these tests: every model has the versions 1 and 2."""
    return Deployment(aliases=ALIASES).key(ref) or f"{name_of(ref)}:{HIGHEST}"


@given(plan=plans())
def test_models_to_load_are_named_or_of_the_registry_and_not_unloaded(plan: ServingPlan) -> None:
    assert len(set(plan.wanted)) == len(plan.wanted)
    for ref in plan.wanted:
        assert ref in (*plan.arguments, *plan.deployment.loads, *plan.names)
        assert not plan.is_withdrawn(ref)
    if plan.arguments:
        left_out = set(plan.arguments) - set(plan.wanted)
        assert all(plan.is_withdrawn(ref) for ref in left_out)
    else:
        assert len(set(plan.wanted) - set(plan.deployment.loads)) <= plan.max_models


@given(plan=plans(), ref=st.sampled_from(REFS))
def test_a_reference_resolves_only_to_wanted_versions_or_served_names(plan: ServingPlan, ref: str) -> None:
    if ref in plan.wanted:
        assert plan.target(ref, key_of) == ref
    try:
        target = plan.target(ref, key_of)
    except ModelUnloaded:
        return
    except ModelNotFound:
        target = None
    if target is None:
        assert plan.arguments, "a whole registry refuses only what is unloaded"
        return
    assert name_of(target) == name_of(ref)
    assert target == ref or (ref == name_of(ref) and target in plan.wanted)
    if name_of(ref) in plan.deployment.unloads:
        assert target in plan.wanted or target in [key_of(wanted) for wanted in plan.wanted]


@given(plan=plans(), previous=st.sampled_from([None, "a", "b", "gone"]), answering=st.booleans())
def test_the_default_is_the_first_argument_or_a_model_of_the_registry(
    plan: ServingPlan, previous: str | None, answering: bool
) -> None:
    default = plan.default(previous, answering=answering)
    if plan.arguments:
        assert default == plan.arguments[0]
    elif answering and previous is not None:
        assert default == previous
    else:
        assert default in plan.names


def test_the_first_model_of_a_registry_stays_the_default_while_it_is_unloaded() -> None:
    """Requests that name no model are refused, before a restart and after it; no other model answers them."""
    plan = ServingPlan(stored=Deployment().unload("a"), names=("a", "b"))
    assert plan.default("a", answering=False) == plan.default(None, answering=False) == "a"
    with pytest.raises(ModelUnloaded):
        plan.target("a", lambda _: None)


def test_a_bare_file_is_independent_of_a_registry_model_with_its_name() -> None:
    plan = ServingPlan(("x/vec.onnx",), stored=Deployment().unload("vec"))
    assert plan.wanted == ("x/vec.onnx",)
    assert not plan.is_unloaded("vec:v1.0")
    unloaded = ServingPlan(("x/vec.onnx",), local=Deployment().unload("vec"))
    assert unloaded.wanted == ()
    assert unloaded.is_unloaded("vec:v1.0")
    assert unloaded.file_of("vec:v1.0") == unloaded.file_of("vec") == "x/vec.onnx"


def test_an_unloaded_name_answers_only_with_versions_loaded_again() -> None:
    stored = Deployment(aliases=ALIASES).unload("a").load("a@live")
    for arguments in ((), ("a", "b")):
        plan = ServingPlan(arguments, stored, names=("a", "b"), max_models=2)
        assert plan.target("a", key_of) == "a@live"
        assert plan.target("a:1", key_of) == "a:1"
        with pytest.raises(ModelUnloaded, match="a:2 was unloaded"):
            plan.target("a:2", key_of)
