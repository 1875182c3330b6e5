"""The simplest correction of an annotator: a number for each class that is added to its logits.

It is fitted on the labeled images, like the thresholds, and competes with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.datasets import IGNORE_INDEX, resize_nearest
from pipeline.errors import StoreError
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.store import DONE

MAX_PIXELS = 1_000_000  # K - 1 numbers are fitted
SMALLEST = 1e-6  # probability of a class that the annotator gives none


def corrected_bias(settings: Settings) -> dict[str, float]:
    """`annotate.onnx.logit_bias` with the fitted bias of each class added to what it is now.

    Reads probs.zarr and the masks of the labeled images of the settings' run.
    """
    log_probabilities, truth = labeled_pixels(settings)
    onnx, names = settings.annotate.onnx, settings.data.class_names
    assert onnx is not None, "rows with a bias are those of annotator onnx"
    has_word = np.array([bool(onnx.class_map.get(name)) for name in names])
    usable = has_word[truth]
    fitted = np.zeros(len(names))
    fitted[has_word] = fit_bias(log_probabilities[usable][:, has_word], (np.cumsum(has_word) - 1)[truth[usable]])
    before: Mapping[str, float] = onnx.logit_bias
    total = {name: round(float(bias) + before.get(name, 0.0), 4) for name, bias in zip(names, fitted, strict=True)}
    return {name: total[name] for name, has in zip(names, has_word, strict=True) if has}


def labeled_pixels(settings: Settings) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]:
    """float32 [N, K] logarithms of the annotator's probabilities, and [N] true classes, of evenly spaced pixels."""
    run = Run(settings)
    store, index = run.open_probabilities(), run.samples()
    position = {sample_id: i for i, sample_id in enumerate(store.sample_ids)}
    samples = [sample for sample in index.of("labeled") if store.status[position[sample.id]] == DONE]
    if not samples:
        raise StoreError(f"{store.path} has no map of any labeled image; see the failures in annotate.json")
    height, width = settings.data.grid
    step = max(1, int(np.ceil(np.sqrt(len(samples) * height * width / MAX_PIXELS))))
    parts: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []
    for sample in samples:
        maps = store.probabilities(position[sample.id]).rows(slice(None))[:, ::step, ::step]
        truth = resize_nearest(index.mask(sample, settings.data), settings.data.grid)[::step, ::step]
        valid = truth != IGNORE_INDEX
        parts.append((np.log(np.maximum(maps[:, valid].T, SMALLEST)), truth[valid].astype(np.intp)))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def fit_bias(log_probabilities: npt.NDArray[np.floating], truth: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """float64 [K]: the bias that minimises the mean cross-entropy of softmax(log P + bias); a convex problem.

    The biases of the classes that occur have mean 0 (a constant changes nothing); a class that never occurs keeps 0.

    log_probabilities: float [N, K]
    truth:             int [N], true classes
    """
    from scipy.optimize import minimize

    num_classes = log_probabilities.shape[1]
    frequency = np.bincount(truth, minlength=num_classes) / max(len(truth), 1)
    occurs = frequency > 0
    logits = np.asarray(log_probabilities, np.float64)

    def loss(free: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        bias = np.zeros(num_classes)
        bias[occurs] = free
        shifted = logits + bias
        shifted -= shifted.max(axis=1, keepdims=True)
        exponentials = np.exp(shifted)
        total = exponentials.sum(axis=1)
        entropy = np.mean(np.log(total) - shifted[np.arange(len(truth)), truth])
        gradient = (exponentials / total[:, None]).mean(axis=0) - frequency
        return float(entropy), gradient[occurs]

    fitted = np.zeros(num_classes)
    if occurs.any():
        found = minimize(loss, np.zeros(int(occurs.sum())), jac=True, method="L-BFGS-B")
        fitted[occurs] = found.x - found.x.mean()
    return fitted
