import numpy as np
from label_store import write_label_store

from calib import pack_sets
from pipeline.experiment.quality import set_quality
from pipeline.store import open_labels

NAN = np.nan


def test_set_quality_by_hand(tmp_path):
    """Six pixels; classes 0 (background) to 3."""
    label = np.float32([[[[NAN, NAN, NAN, NAN, 1, NAN]]]])
    members = [{0, 1}, {1, 2}, {0, 2}, {0, 1, 2, 3}, {1, 2}, {2, 3}]
    truth = np.uint8([[1, 3, 0, 2, 1, 255]])  # in the set, not in it, in it, all classes, labeled, void
    sets = np.array([[[c in one for one in members]] for c in range(4)])
    path = write_label_store(tmp_path, label, [(1, 6)], sets=[pack_sets(sets)])
    quality = set_quality(open_labels(path), [(0, truth)], background=0)
    assert quality == {"right": 2 / 3, "pixels": 3 / 5, "foreground": 2 / 4}


def test_set_quality_of_labels_without_such_a_pixel(tmp_path):
    path = write_label_store(tmp_path, np.zeros((1, 1, 1, 2)), [(1, 2)], sets=[np.zeros((1, 1, 2), np.uint8)])
    nothing = set_quality(open_labels(path), [(0, np.uint8([[0, 0]]))], background=0)
    assert nothing == {"right": None, "pixels": 0, "foreground": None}
