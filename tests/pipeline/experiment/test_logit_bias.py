"""The fitted bias undoes a known one, and is where the cross-entropy is smallest."""

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.metrics import log_loss

from pipeline.experiment.logit_bias import fit_bias


def drawn(num, bias, seed=0):
    """Calibrated log-probabilities [N, K] and classes drawn from them; the first get a bias and are normalised."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (num, len(bias)))
    truth = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # so drawn, a class has its probability
    return log_softmax(logits + bias, axis=1), truth


def test_a_known_bias_is_undone():
    bias = np.array([3.0, -1.0, 0.5, 0.0])
    fitted = fit_bias(*drawn(8000, bias))
    assert fitted + bias - (fitted + bias).mean() == pytest.approx(np.zeros(4), abs=0.15)
    assert fitted.mean() == pytest.approx(0, abs=1e-9)


def test_no_other_bias_has_a_smaller_cross_entropy():
    logits, truth = drawn(500, np.array([2.0, 0.0, -1.0]), seed=1)

    def entropy(bias):
        return log_loss(truth, np.exp(log_softmax(logits + bias, axis=1)))

    fitted, rng = fit_bias(logits, truth), np.random.default_rng(2)
    assert all(entropy(fitted) <= entropy(fitted + rng.normal(0, 0.2, 3)) for _ in range(20))


def test_a_class_that_never_occurs_keeps_no_bias():
    logits, truth = drawn(300, np.array([1.0, 0.0, 0.0]))
    kept = truth != 2
    assert fit_bias(logits[kept], truth[kept])[2] == 0
