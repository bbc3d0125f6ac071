import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.calibration import calibration_curve

from convexdistill.evaluate.probabilities import BINS, confusion_matrix, fit_temperature, quality

DRAW = torch.Generator().manual_seed(0)
TRUTH = torch.randint(0, 5, (300,), generator=DRAW)
# The classes' probabilities are softmax(LOGITS): labels are drawn from them below.
LOGITS = 2 * torch.randn(3, 300, 5, generator=DRAW, dtype=torch.float64)


def found(logits=LOGITS, truth=TRUTH):
    return quality(logits, truth, logits, truth)


def test_scores_are_scikit_learns():
    one = found(LOGITS[:1])
    probabilities = (LOGITS[0] / one.temperature).softmax(-1).numpy()
    assert one.nll == pytest.approx(metrics.log_loss(TRUTH, probabilities))
    # scikit-learn's Brier score of several classes is this sum as well
    assert one.brier == pytest.approx(metrics.brier_score_loss(TRUTH, probabilities, scale_by_half=False))
    assert np.array_equal(one.confusion, metrics.confusion_matrix(TRUTH, probabilities.argmax(1)))
    recalls = metrics.recall_score(TRUTH, probabilities.argmax(1), average=None)
    assert (one.worst_class, one.worst_recall) == (recalls.argmin(), pytest.approx(100 * recalls.min()))


def test_the_calibration_curve_is_scikit_learns():
    one = found(LOGITS[:1])
    probabilities = (LOGITS[0] / one.temperature).softmax(-1)
    confidence, predicted = probabilities.max(-1)
    right = (predicted == TRUTH).numpy()
    accuracy, mean = calibration_curve(right, confidence.numpy(), n_bins=BINS)
    full = [point for point in one.calibration if point[2]]
    assert [p[0] for p in full] == pytest.approx(mean)
    assert [p[1] for p in full] == pytest.approx(accuracy)
    assert sum(p[2] for p in one.calibration) == 300
    expected = sum(abs(p[0] - p[1]) * p[2] for p in full) / 300
    assert one.ece == pytest.approx(expected)
    assert all(p == (None, None, 0) for p in one.calibration if not p[2])


def test_several_trainings_are_averaged():
    every, alone = found(), [quality(one[None], TRUTH, LOGITS, TRUTH) for one in LOGITS]
    for name in ("ece", "brier", "nll"):
        assert getattr(every, name) == pytest.approx(np.mean([getattr(one, name) for one in alone]))
    assert np.array_equal(every.confusion, sum(np.array(one.confusion) for one in alone))
    assert sum(p[2] for p in every.calibration) == 900


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_the_temperature_takes_the_scale_of_the_logits_out(scale):
    truth = torch.distributions.Categorical(logits=LOGITS[0]).sample()
    once, again = found(LOGITS[:1], truth), found(scale * LOGITS[:1], truth)
    assert again.temperature == pytest.approx(scale * once.temperature, rel=0.01)
    assert again.nll == pytest.approx(once.nll, rel=1e-4)
    assert again.ece == pytest.approx(once.ece, abs=0.01)


def test_probabilities_that_are_true_need_no_temperature():
    torch.manual_seed(0)
    logits = torch.randn(1, 20_000, 5)
    truth = torch.distributions.Categorical(logits=logits[0]).sample()
    assert fit_temperature(logits, truth) == pytest.approx(1, abs=0.05)
    assert quality(logits, truth, logits, truth).ece < 0.02


def test_rows_of_the_confusion_matrix_are_true_classes():
    predicted = torch.tensor([[0, 1, 1]])
    assert confusion_matrix(predicted, torch.tensor([0, 0, 1]), 3).tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_a_class_that_does_not_occur_is_not_the_worst():
    assert found(LOGITS[:, :50], TRUTH[:50] % 3).worst_class < 3
