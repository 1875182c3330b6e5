"""A baseline for calibration: a bias for each class, fitted on the labeled images, that is added to the logits."""

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

MAX_PIXELS = 1_000_000  # enough to fit K - 1 numbers
SMALLEST = 1e-6  # replaces a probability of 0, which has no logarithm


def corrected_bias(settings: Settings) -> dict[str, float]:
    """Class name -> `annotate.onnx.logit_bias` plus the fitted bias, for the classes that have a channel.

    Reads probs.zarr and the masks of the labeled images of the run, whose annotator is onnx.

    raises: StoreError if no labeled image has a map
    """
    log_probabilities, truth = labeled_pixels(settings)
    onnx, names = settings.annotate.onnx, settings.data.class_names
    assert onnx is not None, "rows with a bias need annotator onnx"
    has_channel = np.array([bool(onnx.class_map.get(name)) for name in names])
    usable = has_channel[truth]
    fitted = np.zeros(len(names))
    fitted[has_channel] = fit_bias(
        log_probabilities[usable][:, has_channel], (np.cumsum(has_channel) - 1)[truth[usable]]
    )
    before: Mapping[str, float] = onnx.logit_bias
    total = {name: round(float(bias) + before.get(name, 0.0), 4) for name, bias in zip(names, fitted, strict=True)}
    return {name: total[name] for name, has_one in zip(names, has_channel, strict=True) if has_one}


def labeled_pixels(settings: Settings) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]:
    """Evenly spaced pixels of the labeled images, at most about MAX_PIXELS.

    returns: float32 [N, K], logarithms of the annotator's probabilities, and int [N], true classes
    raises:  StoreError if no labeled image has a map
    """
    run = Run(settings)
    store, index = run.open_probabilities(), run.samples("calibrate")
    index_of = {sample_id: i for i, sample_id in enumerate(store.sample_ids)}
    is_done = store.status == DONE
    samples = [sample for sample in index.of("labeled") if is_done[index_of[sample.id]]]
    if not samples:
        raise StoreError(f"{store.path} has no map of a labeled image; fix the failures listed in annotate.json")
    height, width = settings.data.grid
    step = max(1, int(np.ceil(np.sqrt(len(samples) * height * width / MAX_PIXELS))))
    pairs: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []
    for sample in samples:
        maps = store.probabilities(index_of[sample.id]).rows(slice(None))[:, ::step, ::step]
        truth = resize_nearest(index.mask(sample, settings.data), settings.data.grid)[::step, ::step]
        valid = truth != IGNORE_INDEX
        pairs.append((np.log(np.maximum(maps[:, valid].T, SMALLEST)), truth[valid].astype(np.intp)))
    return np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])


def fit_bias(log_probabilities: npt.NDArray[np.floating], truth: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """The bias that minimises the mean cross-entropy of softmax(log P + bias), a convex problem.

    The biases of the classes that occur have mean 0, because a constant has no effect. A class that does not occur has
    bias 0.

    log_probabilities: float [N, K]
    truth:             int [N], true classes
    returns:           float64 [K]
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
        solution = minimize(loss, np.zeros(int(occurs.sum())), jac=True, method="L-BFGS-B")
        fitted[occurs] = solution.x - solution.x.mean()
    return fitted
