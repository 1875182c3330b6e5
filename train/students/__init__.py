"""The student networks: EfficientNet-Lite, SegFormer, DINO with a DPT head, or any network of transformers.

After `import train.students`, AutoModelForSemanticSegmentation of transformers loads every student that training saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from train.students.drop import dropout_rows
from train.students.efficientnet import PREFIX, EfficientNetLite, efficientnet_config
from train.students.files import load_network, read_network, save_network, with_weights
from train.students.freeze import freeze
from train.students.network import Network, num_parameters
from train.students.plain import class_names_of
from train.students.registration import register
from train.students.segformer import ARCHITECTURES, SegFormer, segformer_config

__all__ = [
    "Network",
    "class_names_of",
    "dropout_rows",
    "freeze",
    "load_network",
    "new_network",
    "num_parameters",
    "random_network",
    "save_network",
]

DINO_FAMILIES = ("dinov2", "dinov3")

register()


def new_network(student: str, weights: str, class_names: Sequence[str], drop_path: float | None = None) -> Network:
    """A student for some classes; parameters without given weights are drawn from torch's global generator.

    student:   efficientnet-lite0 to -lite2, tiny, b0 to b5, dinov2-s, -b, -l, dinov3-s, -b, -l, or a folder in
               transformers format
    weights:   random (a folder given as student: its own), imagenet (efficientnet-lite), a folder in transformers
               format, a file mit_b*.pth of NVlabs, or a hub name, which is downloaded
    drop_path: probability of dropping a branch of the last layer; it rises from 0 in the first layer. Default: 0.1, but
               0 for EfficientNet-Lite, because it lowers the mIoU of small networks and of short training
    raises:    TrainingError for weights that cannot be found or do not fit the student
    """
    if drop_path is None:
        drop_path = 0.0 if student.startswith(PREFIX) else 0.1
    if is_known(student):
        network = random_network(student, class_names, drop_path)
    else:
        network = read_network(Path(student), class_names, drop_path)
    return network if weights == "random" else with_weights(network, student, weights)


def is_known(student: str) -> bool:
    """Whether a student is one of the named networks; otherwise it is a folder."""
    return student.startswith(PREFIX) or student in ARCHITECTURES or student.partition("-")[0] in DINO_FAMILIES


def random_network(student: str, class_names: Sequence[str], drop_path: float = 0.1) -> Network:
    """A named student with random weights, drawn from torch's global generator."""
    if student.startswith(PREFIX):
        return EfficientNetLite(efficientnet_config(student, class_names, drop_path))
    family, _, size = student.partition("-")
    if family in DINO_FAMILIES:
        from train.students.dino import DinoDPT, dino_config  # imports transformers, which takes seconds

        return DinoDPT(dino_config(family, size, class_names, drop_path))
    return SegFormer(segformer_config(student, class_names, drop_path))
