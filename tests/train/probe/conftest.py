"""Features of a tiny random encoder."""

import pytest
import torch

from train.machine.device import compute_of
from train.probe.features import FeatureCache, feature_key
from train.probe.views import view_plan
from train.student import Student
from train.students import new_network


@pytest.fixture
def cache_of():
    """settings, seed of the encoder -> its cache, in the run's folder."""

    def make(settings, seed=0):
        torch.manual_seed(seed)
        student = Student(new_network("tiny", "random", settings.data.class_names), compute_of(settings.train))
        plan = view_plan(settings)
        return FeatureCache(settings.folder / "probe/features", feature_key(student.model, plan), plan, student)

    return make
