import pytest

from penstock.errors import InvalidInput
from penstock_hydraulics.learning.publishing.versions import best_forest, next_version, taken_versions, versions_of
from penstock_hydraulics.machine.states import HEADS


def figures(served, **means):
    settled = {
        name: {"settled": {head.name: {"macro_f1": [mean, mean, mean]} for head in HEADS}}
        for name, mean in means.items()
    }
    sentence = "No model qualifies, so none is served or published."
    return {"selection": {"served": served, "sentence": sentence}, "protocols": {"run_grouped": settled}}


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ([], "v1.0"),
        (["v1.0", "v1.0-trees"], "v1.1"),
        (["v1.9-trees", "v1.10"], "v1.11"),
        (["2.3.1", "v1.7", "nightly"], "v2.4"),
        (["nightly"], "v1.0"),
    ],
)
def test_the_next_version_follows_the_highest(taken, expected):
    assert next_version(taken) == expected


def test_shipped_versions_and_those_of_the_directory_are_taken(tmp_path):
    (tmp_path / "hydraulics" / "v1.4").mkdir(parents=True)
    (tmp_path / "hydraulics" / "champion").write_text("v1.4\n")
    assert taken_versions(tmp_path) == {"v1.0", "v1.0-trees", "v1.4"}


def test_the_network_has_the_version_and_the_trees_the_suffix_whichever_is_selected(tmp_path):
    for served in ("network", "extra_trees"):
        found = versions_of(figures(served, extra_trees=0.9, gradient_boosting=0.8), "v3.0", tmp_path)
        assert found == {"network": "v3.0", "extra_trees": "v3.0-trees"}


def test_selected_trees_are_published_even_if_others_have_a_better_mean():
    assert best_forest(figures("extra_trees", extra_trees=0.8, gradient_boosting=0.9)) == "extra_trees"
    assert best_forest(figures("network", extra_trees=0.8, gradient_boosting=0.9)) == "gradient_boosting"


@pytest.mark.parametrize(
    ("served", "version", "means", "message"),
    [
        (None, None, {"extra_trees": 0.9}, "No model qualifies, so none is served or published."),
        ("logistic_regression", None, {"extra_trees": 0.9}, "selects logistic_regression, which cannot be published"),
        ("network", None, {}, "the evaluation has none of extra_trees, gradient_boosting; evaluate one"),
        ("network", "../v1", {"extra_trees": 0.9}, "version: '../v1' is not a version"),
    ],
)
def test_a_publication_that_is_not_possible_is_refused(served, version, means, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        versions_of(figures(served, **means), version, tmp_path)
