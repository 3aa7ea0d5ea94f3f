import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss

from penstock_hydraulics.learning import metrics

RNG = np.random.default_rng(0)


def some_answers(count=400, classes=4, skill=2.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    logits = rng.normal(size=(count, classes))
    logits[np.arange(count), labels] += skill
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True), labels


def test_scores_agree_with_scikit_learn():
    probabilities, labels = some_answers()
    answers = probabilities.argmax(axis=1)
    confusion = confusion_matrix(labels, answers)
    assert metrics.accuracy(confusion) == pytest.approx(accuracy_score(labels, answers))
    assert metrics.macro_f1(confusion) == pytest.approx(f1_score(labels, answers, average="macro"))
    assert metrics.negative_log_likelihood(probabilities, labels) == pytest.approx(log_loss(labels, probabilities))


def test_an_absent_level_counts_only_if_it_is_answered():
    labels, right, wrong = np.array([0, 0, 1]), np.array([0, 0, 1]), np.array([0, 2, 1])
    assert metrics.macro_f1(confusion_matrix(labels, right, labels=range(4))) == 1.0
    expected = f1_score(labels, wrong, average="macro")
    assert metrics.macro_f1(confusion_matrix(labels, wrong, labels=range(4))) == pytest.approx(expected)


def test_the_calibration_error_is_small_for_calibrated_and_large_for_overconfident_answers():
    rng = np.random.default_rng(1)
    sure = rng.uniform(0.5, 1, 20_000)
    labels = (rng.random(20_000) > sure).astype(np.int64)
    honest = np.stack([sure, 1 - sure], axis=1)
    boasting = np.tile([0.99, 0.01], (20_000, 1))
    assert metrics.expected_calibration_error(honest, labels) < 0.015
    expected = 0.99 - (labels == 0).mean()
    assert metrics.expected_calibration_error(boasting, labels) == pytest.approx(expected)


def test_the_bins_of_the_reliability_plot_hold_every_answer_once():
    probabilities, labels = some_answers()
    bins = metrics.reliability(probabilities, labels, 10)
    assert sum(one.answers for one in bins) == len(labels)
    for place, one in enumerate(bins):
        assert one.answers == 0 or place / 10 <= one.confidence <= (place + 1) / 10


def test_a_confidence_of_one_falls_into_the_last_bin():
    bins = metrics.reliability(np.array([[1.0, 0.0]]), np.array([0]), 10)
    assert bins[-1] == (1, 1.0, 1.0)


def test_confusions_by_run_add_up_to_the_whole():
    probabilities, labels = some_answers()
    runs = RNG.integers(30, size=len(labels))
    answers = probabilities.argmax(axis=1)
    by_run = metrics.confusion_by_run(labels, answers, 4, runs)
    assert by_run.shape == (30, 4, 4)
    assert (by_run.sum(axis=0) == confusion_matrix(labels, answers)).all()


def test_intervals_over_runs_are_wider_than_over_cycles():
    runs = np.repeat(np.arange(40), 10)
    labels = np.tile([0, 1], 200)
    wrong = np.isin(runs, [3, 17, 30])  # all answers of three runs are wrong
    answers = np.where(wrong, 1 - labels, labels)

    def width(groups):
        by_group = metrics.confusion_by_run(labels, answers, 2, groups)
        drawn = metrics.macro_f1(metrics.resampled(by_group, metrics.bootstrap_weights(len(by_group))))
        found = metrics.interval(0.925, drawn)
        assert found.low <= found.value <= found.high
        return found.high - found.low

    assert width(runs) > 2 * width(np.arange(400))


def test_a_paired_comparison_detects_a_small_consistent_difference():
    runs = np.repeat(np.arange(60), 5)
    labels = np.tile([0, 1, 0, 1, 1], 60)
    hard = np.isin(runs, np.arange(0, 60, 3))
    good = np.where(hard & (np.arange(300) % 5 == 0), 1, labels)
    worse = np.where(hard & (np.arange(300) % 5 < 2), 1 - labels, labels)
    ours, theirs = ([metrics.confusion_by_run(labels, answers, 2, runs)] for answers in (good, worse))
    difference = metrics.paired_difference(ours, theirs)
    assert difference.low > 0
    assert metrics.paired_difference(ours, ours) == (0, 0, 0)


def test_a_threshold_keeps_false_alarms_within_its_share():
    rng = np.random.default_rng(2)
    scores = np.round(rng.random(1000), 2)  # many equal ones
    faulty = rng.random(1000) < 0.4
    threshold = metrics.threshold_at(scores, faulty, 0.01)
    found = metrics.detection_at(scores, faulty, threshold)
    assert found.false_alarms <= 0.01
    assert found.negatives + found.positives == 1000
    lower = metrics.detection_at(scores, faulty, threshold - 0.01)
    assert lower.false_alarms > 0.01


def test_a_threshold_is_at_least_one_half():
    scores = np.concatenate([np.full(100, 0.001), np.full(100, 0.999)])
    assert metrics.threshold_at(scores, np.arange(200) >= 100, 0.01) == 0.5


def test_a_threshold_is_at_most_one():
    assert metrics.threshold_at(np.ones(5), np.zeros(5, dtype=bool), 0.01) == 1.0
