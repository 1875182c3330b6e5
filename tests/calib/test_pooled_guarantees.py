"""Guarantees of pooled thresholds and of risk control, as means over many draws of images that differ as a whole."""

import math

import numpy as np
import pytest

from calib import (
    ArrayMaps,
    Variant,
    class_planes,
    fit,
    label_pixels,
    most_probable,
    true_class_scores,
)

NUM_NEW = 40  # new images, judged by the thresholds of each draw


def together(num_images):
    return np.zeros(num_images, dtype=np.int64)


def squash(x):
    return (1 / (1 + np.exp(-x))).astype(np.float32)


def image_effects(rng, num_images, pixels=30, noise=0.5):
    """Scores [L, 1, pixels] = image effect + noise, squashed into [0, 1]."""
    return squash(rng.normal(size=(num_images, 1, 1)) + noise * rng.normal(size=(num_images, 1, pixels)))


def mean_and_error(values):
    return np.mean(values), np.std(values) / math.sqrt(len(values))


def coverage_over_draws(variant, num_images, draws=1000):
    """Fraction of a new image's pixels that are covered: mean over draws, and its standard error."""
    rng, fractions = np.random.default_rng(0), []
    for _ in range(draws):
        scores = image_effects(rng, num_images + NUM_NEW)
        labeled, new = scores[:num_images], scores[num_images:]
        (fitted,) = fit(
            variant, ArrayMaps({"score": labeled, "truth": np.zeros(labeled.shape, np.uint8)}), together(num_images)
        )
        fractions.append(np.mean(new <= fitted.map(0)))
    return mean_and_error(fractions)


@pytest.mark.parametrize(("num_images", "alpha"), [(20, 0.1), pytest.param(13, 0.15, marks=pytest.mark.slow)])
def test_pooling_pixels_as_if_they_were_independent_covers_too_little_and_weighing_images_does_not(num_images, alpha):
    """Naive pooling treats the 30 pixels of an image as independent, although they are hardly more than one score."""
    naive, naive_error = coverage_over_draws(Variant("image", (alpha,), pooling="naive"), num_images)
    hierarchical, error = coverage_over_draws(Variant("image", (alpha,)), num_images)
    assert naive < 1 - alpha - 4 * naive_error
    assert 1 - alpha - 3 * error <= hierarchical <= 1 - alpha + 1 / (num_images + 1) + 3 * error


def test_detects_a_threshold_that_leaves_out_the_weight_of_the_new_image():
    """The paper's quantile leaves out the weight 1 / (L + 1) of the new image, and so covers too little."""
    paper, error = coverage_over_draws(Variant("image", (0.1,), quantile="paper"), 9, draws=400)
    assert paper < 0.9 - 4 * error


def test_an_image_has_the_same_weight_with_many_pixels_and_with_few():
    """Hard images have few valid pixels: counted by pixels, they vanish, and so does the coverage of a new image."""
    rng, by_images, by_pixels = np.random.default_rng(0), [], []
    for _ in range(100):
        scores = image_effects(rng, 29 + NUM_NEW)
        scores[np.median(scores, axis=2)[:, 0] > 0.5, :, 3:] = np.nan
        labeled, new = scores[:29], scores[29:]
        truth = np.where(np.isnan(labeled), 255, 0).astype(np.uint8)
        for pooling, coverages in (("hierarchical", by_images), ("naive", by_pixels)):
            (fitted,) = fit(
                Variant("image", (0.1,), pooling=pooling), ArrayMaps({"score": labeled, "truth": truth}), together(29)
            )
            per_image = [np.mean(image[~np.isnan(image)] <= fitted.q.item()) for image in new]
            coverages.append(np.mean(per_image))
    assert np.mean(by_images) >= 0.9 - 3 * mean_and_error(by_images)[1]
    assert np.mean(by_pixels) < 0.8


RARE = 2


def images_with_a_rare_hard_class(rng, num_images):
    """Scores and true classes [L, 4, 8]: of 32 pixels, 2 are of a class whose scores are high."""
    truth = np.tile(np.uint8([[0] * 4 + [1] * 4] * 4), (num_images, 1, 1))
    truth[:, 0, :2] = RARE
    effect, noise = rng.normal(size=(num_images, 1, 1)), rng.normal(size=truth.shape)
    return squash(np.array([-2, -1.5, 1.5])[truth] + 0.5 * effect + 0.5 * noise), truth


def coverage_per_class(classes, draws=150, num_images=39, alpha=0.1):
    """For each class, the fraction of a new image's pixels that are covered: mean over draws and standard error."""
    variant = Variant("image", (alpha,), classes=classes, num_classes=3, class_clusters=2)
    rng, fractions = np.random.default_rng(0), []
    for _ in range(draws):
        scores, truth = images_with_a_rare_hard_class(rng, num_images + NUM_NEW)
        maps = ArrayMaps({"score": scores[:num_images], "truth": truth[:num_images]})
        (fitted,) = fit(variant, maps, together(num_images))
        q_of_classes = np.broadcast_to(fitted.q[0, :, 0], 3)
        covered = scores[num_images:] <= q_of_classes[truth[num_images:]]
        fractions.append([covered[truth[num_images:] == c].mean() for c in range(3)])
    return np.mean(fractions, axis=0), np.std(fractions, axis=0) / math.sqrt(draws)


def test_a_threshold_for_each_class_covers_the_rare_hard_class_that_a_pooled_one_starves():
    """Easy classes take up the pooled 90 %; the two hard pixels of an image are nearly all outside of it."""
    pooled, _ = coverage_per_class("pooled")
    assert pooled[RARE] < 0.3
    assert (pooled[:RARE] > 0.9).all()
    each, error = coverage_per_class("each")
    assert (each >= 0.9 - 3 * error).all()
    assert (each <= 0.9 + 1 / 40 + 3 * error).all()


def test_clusters_of_classes_cover_the_rare_hard_class():
    """It is a cluster by itself; the two easy classes share theirs, so that one of them may have a little less."""
    clustered, error = coverage_per_class("clustered", draws=60)
    assert clustered[RARE] >= 0.9 - 3 * error[RARE]
    assert clustered[:RARE].mean() >= 0.9 - 3 * error[:RARE].max()


def images_with_mistakes(rng, num_images, shape=(4, 8)):
    """Probabilities [L, 3, H, W] and true classes: surer labels are right more often, in some images than in others."""
    sureness = rng.normal(size=(num_images, 1, *shape)) + rng.normal(size=(num_images, 1, 1, 1))
    logits = rng.normal(size=(num_images, 3, *shape)) * np.exp(0.7 * sureness)
    hardness = np.exp(0.5 * rng.normal(size=(num_images, 1, 1, 1)))
    truth = (logits / hardness + rng.gumbel(size=logits.shape)).argmax(axis=1).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = 255
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32), truth


def risk_over_draws(alpha, num_images, draws):
    """Fraction of a new image's pixels that rule argmax labels wrong: for each draw the mean over new images."""
    rng, variant, risks = np.random.default_rng(0), Variant("risk", (alpha,), background=0), []
    for _ in range(draws):
        probabilities, truth = images_with_mistakes(rng, num_images + NUM_NEW)
        tall = np.moveaxis(probabilities, 1, 0).reshape(3, -1, truth.shape[2])  # all images, one below the other
        planes = class_planes(tall, 0)
        of_images = {name: plane.reshape(truth.shape) for name, plane in planes._asdict().items()}
        of_images |= {"score": true_class_scores(tall, truth.reshape(tall.shape[1:])).reshape(truth.shape)}
        maps = ArrayMaps({name: plane[:num_images] for name, plane in (of_images | {"truth": truth}).items()})
        q_hat = fit(variant, maps, together(num_images))[0].map(0)
        label = label_pixels(planes, np.tile(q_hat, (len(truth), 1)), "argmax", 0, "abstain")
        assert (most_probable(planes, 0)[0] == label)[~np.isnan(label)].all()
        label, true = label.reshape(truth.shape)[num_images:], truth[num_images:]
        wrong = ~np.isnan(label) & (label != true) & (true != 255)
        risks.append(np.mean(wrong.sum(axis=(1, 2)) / (true != 255).sum(axis=(1, 2))))
    return risks


@pytest.mark.parametrize(("num_images", "alpha"), [(24, 0.1), pytest.param(49, 0.05, marks=pytest.mark.slow)])
def test_at_most_alpha_of_a_new_image_is_labeled_wrong_in_the_mean_over_300_draws_and_not_much_less(num_images, alpha):
    """Conformal risk control loses at most 2 / (L + 1) to its caution (Angelopoulos et al. 2022, theorem 2)."""
    risks = risk_over_draws(alpha, num_images, draws=300)
    assert alpha - 2 / (num_images + 1) <= np.mean(risks) <= alpha
    assert np.mean(risks) > alpha / 2
    assert (np.array(risks) > alpha).any()  # the guarantee is about the mean; single draws may exceed alpha
