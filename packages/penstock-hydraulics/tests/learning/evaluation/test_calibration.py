import numpy as np
import pytest

from penstock_hydraulics.learning.evaluation.calibration import calibrate, cross_fitted, fit_temperature, tempered
from penstock_hydraulics.learning.metrics import negative_log_likelihood


def honest(count=6000, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(count, classes))
    probabilities = tempered(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 1.0)
    labels = (probabilities.cumsum(axis=1) > rng.random((count, 1))).argmax(axis=1)
    return probabilities, labels, np.arange(count) % 5


def test_a_temperature_of_one_changes_nothing():
    probabilities, _, _ = honest(50)
    np.testing.assert_allclose(tempered(probabilities, 1.0), probabilities, atol=1e-12)


def test_temperature_never_changes_the_best_level():
    probabilities, _, _ = honest(200)
    for temperature in (0.3, 3.0):
        changed = tempered(probabilities, temperature)
        assert (changed.argmax(axis=1) == probabilities.argmax(axis=1)).all()
        np.testing.assert_allclose(changed.sum(axis=1), 1.0)


@pytest.mark.parametrize("boast", [0.5, 2.0])
def test_overconfident_answers_are_softened_and_underconfident_ones_sharpened(boast):
    probabilities, labels, folds = honest()
    found = calibrate(tempered(probabilities, boast), labels, folds)
    assert found.accepted
    assert found.temperature == pytest.approx(1 / boast, rel=0.1)
    assert found.ece_after < found.ece_before
    assert found.nll_after < found.nll_before


def test_a_temperature_that_does_not_help_on_other_folds_is_refused():
    folds = np.arange(40) % 5
    sharp = np.where(np.arange(40)[:, None] % 4 == np.arange(4), 0.97, 0.01)
    wrong_in_one_fold = np.where(folds == 0, (np.arange(40) + 1) % 4, np.arange(40) % 4)
    refused = calibrate(sharp, wrong_in_one_fold, folds)
    assert refused.temperature == 1.0
    assert not refused.accepted


def test_a_fold_is_evaluated_with_temperatures_of_the_other_folds():
    probabilities, labels, folds = honest(600)
    boasting = tempered(probabilities, 0.5)
    after = cross_fitted(boasting, labels, folds)
    for fold in range(5):
        here = folds == fold
        other = fit_temperature(boasting[~here], labels[~here])
        np.testing.assert_allclose(after[here], tempered(boasting[here], other))
    assert negative_log_likelihood(after, labels) < negative_log_likelihood(boasting, labels)


def test_the_loss_of_a_zero_probability_is_finite():
    assert 20 < negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1])) < 25
