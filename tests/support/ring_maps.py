"""Features of maps whose regions are known, and what is minimised over rings, counted location by location."""

import math

import numpy as np

from calib.regions import FEATURE_LEVELS


def flat_features(values):
    """Features that are equal at all levels, float32 [4, H, W]."""
    return np.repeat(np.array(values, dtype=np.float32)[np.newaxis], len(FEATURE_LEVELS), axis=0)


def random_features(shape, seed=0):
    """Features like quantiles: ascending at every location, float32 [4, H, W]."""
    return np.sort(np.random.default_rng(seed).random((len(FEATURE_LEVELS), *shape), dtype=np.float32), axis=0)


def literal_rings(shape, centre, radii):
    """The rings around a centre (row and column from the middle), location by location."""
    rings = np.zeros(shape, dtype=np.int32)
    for row, column in np.ndindex(shape):
        distance = math.dist((row, column), (shape[0] // 2 + centre[0], shape[1] // 2 + centre[1]))
        rings[row, column] = sum(distance >= radius for radius in radii)
    return rings


def squared_objective(features, regions):
    """What exact rings minimise: squared distances over all pairs of a region: n times the squares about its mean."""
    total = 0.0
    for region in np.unique(regions):
        points = features[:, regions == region].astype(np.float64)
        points = points[:, ~np.isnan(points[0])]
        if points.size:
            total += points.shape[1] * ((points - points.mean(axis=1, keepdims=True)) ** 2).sum()
    return total


def noisy_rings(shape, centre, radii, seed=0):
    """Rings of different scores, with noise; returns the features and the rings."""
    planted = literal_rings(shape, centre, radii)
    noise = np.random.default_rng(seed).normal(0, 0.02, size=(4, *shape)).astype(np.float32)
    return flat_features(np.array([0.2, 0.5, 0.35, 0.8])[planted]) + noise, planted
