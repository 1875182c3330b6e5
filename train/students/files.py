"""Reads and writes students as folders in transformers format, and reads weights that others published.

transformers is only imported for students that need it, because the import takes seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pipeline.digests import write_sums
from pipeline.errors import TrainingError
from pipeline.pretrained import check_sums, hub_folder
from train.students.efficientnet import PREFIX, EfficientNetLite, imagenet_weights
from train.students.network import Network
from train.students.normalisation import save_normalisation
from train.students.nvlabs import read_nvlabs
from train.students.plain import PlainNetwork, class_names_of, read_config
from train.students.segformer import SegFormer

log = logging.getLogger(__name__)

BLOCK_FILE = "allspark.safetensors"
PLAIN: dict[str, type[PlainNetwork]] = {kind.config_class.model_type: kind for kind in (EfficientNetLite, SegFormer)}


def save_network(network: Network, folder: Path) -> None:
    """Write a folder that AutoModelForSemanticSegmentation and AutoImageProcessor of transformers can load.

    It also writes SHA256SUMS, by which a copy of the folder is checked when it is loaded.
    """
    network.save(folder)
    save_normalisation(network, folder)
    write_sums(folder)


def load_network(folder: Path) -> Network:
    """Load what `save_network` or transformers wrote. AllSpark's memory is not saved, because only training needs it.

    raises: NetworkError if it is missing or damaged, TrainingError if it is incomplete
    """
    check_sums(folder)
    content = read_config(folder)
    kind = PLAIN.get(content.get("model_type", ""))
    network: Network
    if kind is not None:
        network, unfit = kind.read(folder, kind.config_class.of(content))
    else:
        from train.students.pretrained import load_pretrained

        network, unfit = load_pretrained(folder)
    if unfit:
        raise TrainingError(
            f"{folder} lacks {len(unfit)} of its network's weights, e.g. {unfit[0]}; copy the folder again, or train "
            "the student again"
        )
    if not (folder / BLOCK_FILE).is_file():
        return network
    from train.students.allspark.network import with_saved_block

    return with_saved_block(network, folder / BLOCK_FILE, len(class_names_of(folder)))


def read_network(folder: Path, class_names: Sequence[str], drop_path: float) -> Network:
    """Load the segmentation network in a folder for training; with other classes its classifier gets random weights.

    raises: TrainingError for a folder without a network, with one that cannot be trained, or with damaged files
    """
    check_sums(folder)
    content = read_config(folder)
    kind = PLAIN.get(content.get("model_type", ""))
    network: Network
    if kind is not None:
        changed = {"id2label": dict(enumerate(class_names)), "drop_path_rate": drop_path}
        network, unfit = kind.read(folder, kind.config_class.of(content | changed))
    else:
        from train.students.pretrained import read_pretrained

        network, unfit = read_pretrained(folder, class_names, drop_path)
    check_fit(network, str(folder), None, unfit)
    return network


def with_weights(network: Network, student: str, weights: str) -> Network:
    """A network with the given weights of the encoder, and of the decode head if there are any.

    weights: imagenet, a folder in transformers format, a file mit_b*.pth of NVlabs, or a hub name
    raises:  TrainingError for weights that cannot be found or do not fit the student
    """
    if weights == "imagenet":
        return _with_imagenet(network, student)
    if Path(weights).suffix in (".pth", ".pt"):
        return _with_nvlabs(network, student, Path(weights))
    folder = weights_folder(weights)
    check_sums(folder)
    if isinstance(network, PlainNetwork):
        network, unfit = network.read(folder, network.config)
    else:
        from train.students.pretrained import with_pretrained

        network, unfit = with_pretrained(network, student, weights, folder)
    check_fit(network, weights, student, unfit)
    return network


def _with_imagenet(network: Network, student: str) -> Network:
    if not isinstance(network, EfficientNetLite):
        raise TrainingError(
            f"train.weights is imagenet, which is for students {PREFIX}0 to {PREFIX}2, but train.student is {student}; "
            "set train.weights to a folder in transformers format, a hub name, or random"
        )
    network.encoder.load_state_dict(imagenet_weights(student))
    log.info("%s: ImageNet weights loaded; the decode head starts from random weights", student)
    return network


def _with_nvlabs(network: Network, student: str, path: Path) -> Network:
    if not path.is_file():
        raise TrainingError(
            f"train.weights is {path}, which does not exist; download mit_b*.pth of NVlabs/SegFormer to that path"
        )
    if not isinstance(network, SegFormer):
        raise TrainingError(
            f"{path} holds a MiT encoder, which train.student {student} does not have; set train.student to one of b0 "
            "to b5"
        )
    given, own = read_nvlabs(path), network.segformer.state_dict()
    unfit = [name for name in own if name not in given or given[name].shape != own[name].shape]
    unfit += [name for name in given if name not in own]
    check_fit(network, str(path), student, [f"segformer.{name}" for name in unfit])
    network.segformer.load_state_dict(given)
    log.info("%s: encoder loaded; the decode head starts from random weights", path)
    return network


def check_fit(network: Network, weights: str, student: str | None, unfit: Sequence[str]) -> None:
    """Raise TrainingError unless the weights have the whole encoder; the head may be missing or of other classes.

    student: as in the settings; None if the config.json beside the weights describes the network
    unfit:   names of parameters that the weights lack, or have with another shape
    """
    in_encoder = [name for name in unfit if not network.is_head(name)]
    if in_encoder:
        expected = f"train.student {student}" if student else "the config.json beside them"
        fix = "set train.student to the size of the weights" if student else "take a complete folder"
        raise TrainingError(
            f"the weights {weights} do not fit {expected}: {len(in_encoder)} tensors are missing or have another "
            f"shape, e.g. {in_encoder[0]}; {fix}"
        )
    if unfit:
        log.info("%s: encoder loaded; %d tensors of the decode head start from random weights", weights, len(unfit))


def weights_folder(weights: str) -> Path:
    """The folder of some weights: a local folder itself, or the local cache of a hub name, downloaded if necessary.

    weights: folder, or name of the hub, which may end in @REVISION, a commit, branch or tag
    """
    if Path(weights).is_dir():
        return Path(weights)
    return hub_folder(
        weights,
        "train.weights",
        "set train.weights to a folder in transformers format (on a machine with a network: hf download nvidia/mit-b0 "
        "--local-dir weights/mit-b0), or to random",
    )
