"""Students from and to folders in transformers format, and from weights that others published."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSemanticSegmentation,
    PreTrainedConfig,
    PreTrainedModel,
    SegformerImageProcessorPil,
)

from pipeline.errors import TrainingError, first_line
from pipeline.files import read_json
from train.students.any_network import AnyNetwork, tried
from train.students.dino import DinoDPT
from train.students.efficientnet import PREFIX, EfficientNetLite, imagenet_weights
from train.students.network import Network
from train.students.nvlabs import read_nvlabs
from train.students.segformer import SegFormer

log = logging.getLogger(__name__)

# What a log file has no use for: bars, and tables of tensors that `check_fit` turns into one line.
transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]

WEIGHT_FILES = ["config.json", "preprocessor_config.json", "*.safetensors", "*.bin"]
OWN: dict[str, type[PreTrainedModel]] = {
    "segformer": SegFormer,
    "dino_dpt": DinoDPT,
    "efficientnet_lite_fpn": EfficientNetLite,
}


def save_network(network: Network, folder: Path) -> None:
    """Write `folder` so that AutoModelForSemanticSegmentation and AutoImageProcessor of transformers read it."""
    model: Any = network.model if isinstance(network, AnyNetwork) else network
    model.save_pretrained(folder)
    if isinstance(model, SegFormer):  # the same network by its public name, which save_pretrained does not know
        model.config.architectures = ["SegformerForSemanticSegmentation"]
        model.config.save_pretrained(folder)
    SegformerImageProcessorPil(
        do_resize=False, image_mean=list(network.mean), image_std=list(network.std)
    ).save_pretrained(folder)


def load_network(folder: Path) -> Network:
    """Read what `save_network` or transformers wrote; TrainingError if it is not there, or not all of it."""
    network, unfit = _read_network(Path(folder), config_of(Path(folder)))
    if unfit:
        raise TrainingError(
            f"{folder} lacks {len(unfit)} of its network's weights, e.g. {unfit[0]}; copy it again, or train it again"
        )
    return network


def read_network(folder: Path, class_names: Sequence[str], drop_path: float) -> Network:
    """The segmentation network in a folder, to be trained; for other classes its classifier gets random weights.

    raises: TrainingError for a folder without one, or with one that cannot be trained
    """
    config = config_of(folder)
    config.id2label = dict(enumerate(class_names))
    config.label2id = {name: index for index, name in enumerate(class_names)}
    config.use_auxiliary_head = False  # where there is one, it gives logits that nobody asks for
    if hasattr(config, "drop_path_rate"):
        config.drop_path_rate = drop_path
    network, unfit = _read_network(folder, config)
    check_fit(network, str(folder), None, unfit)
    return network


def _read_network(folder: Path, config: PreTrainedConfig) -> tuple[Network, list[str]]:
    """The network of that configuration, and the names of its parameters that the folder lacks or has in other shapes.

    Those come from torch's global generator.
    """
    kind = OWN.get(config.model_type, AutoModelForSemanticSegmentation)
    model, info = read(kind, folder, config=config, ignore_mismatched_sizes=True)
    network, prefix = (model, "") if isinstance(model, Network) else (AnyNetwork(model), "model.")
    network.mean, network.std = normalisation_of(folder, network)
    network.freeze_unused()
    if isinstance(network, AnyNetwork):
        network = tried(network, config.num_labels)
    return network, [f"{prefix}{name}" for name in _unfit(info)]


def normalisation_of(folder: Path, network: Network) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of RGB in [0, 1] that a folder's preprocessor_config.json names; else the network's.

    raises: TrainingError for a network that wants its channels in another order
    """
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return list(network.mean), list(network.std)
    named: dict[str, Any] = read_json(path)
    if named.get("do_flip_channel_order"):
        raise TrainingError(
            f"{path} asks for channels in the order BGR (do_flip_channel_order), which students do not have; take a "
            "network that was trained on RGB"
        )
    rescaled = named.get("rescale_factor", 1 / 255) if named.get("do_rescale", True) else 1.0
    to_unit = 255 * rescaled  # what the network calls 1 is this in RGB in [0, 1]
    mean: Sequence[float] = [0.0] * 3
    std: Sequence[float] = [1.0] * 3
    if named.get("do_normalize", True):
        mean, std = named.get("image_mean") or network.mean, named.get("image_std") or network.std
    return [value / to_unit for value in mean], [value / to_unit for value in std]


def config_of(folder: Path) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise _holds_none(folder, error) from None
    return config


def read(kind: Any, folder: Path, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """A network of `kind` in a folder, and what transformers tells about loading it."""
    try:
        loaded: tuple[Any, dict[str, Any]] = kind.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True, **kwargs
        )
    except ImportError as error:  # a backbone of timm, for instance
        raise _lacks_library(folder, error) from None
    except (OSError, ValueError, SafetensorError) as error:
        raise _holds_none(folder, error) from None
    return loaded


def _lacks_library(folder: Path, error: ImportError) -> TrainingError:
    install = re.search(r"pip install [\w.-]+", str(error))
    fix = f"run {install[0]}" if install else "install it"
    reason = _reason(error).partition(". ")[0]
    return TrainingError(f"the network in {folder} needs a library that is not installed ({reason}); {fix}")


def _holds_none(folder: Path, error: Exception) -> TrainingError:
    return TrainingError(
        f"{folder} holds no segmentation network in transformers format ({_reason(error)}); expected config.json "
        "and model.safetensors"
    )


def with_weights(network: Network, student: str, weights: str) -> Network:
    """A new network of ours with the encoder that `weights` names, and the decode head if that has one.

    weights: imagenet, a folder in transformers format, a file mit_b*.pth of NVlabs, or a hub name
    raises:  TrainingError for weights that cannot be found or do not fit the student
    """
    if weights == "imagenet":
        return _with_imagenet(network, student)
    if Path(weights).suffix in (".pth", ".pt"):
        return _with_nvlabs(network, student, Path(weights))
    folder = weights_folder(weights)
    if isinstance(network, DinoDPT) and config_of(folder).model_type != "dino_dpt":
        return _with_encoder(network, student, weights, folder)
    config: Any = network.model.config if isinstance(network, AnyNetwork) else network.config
    network, unfit = _read_network(folder, config)
    check_fit(network, weights, student, unfit)
    return network


def _with_encoder(network: DinoDPT, student: str, weights: str, folder: Path) -> DinoDPT:
    """The folder holds the encoder alone; it knows its own details best (size of the position table, registers)."""
    config, given = network.config, config_of(folder)
    sizes = [(c.model_type, c.hidden_size, c.num_hidden_layers) for c in (given, config.encoder_config)]
    if sizes[0] != sizes[1]:
        found, expected = (f"{kind} of width {width} and {depth} layers" for kind, width, depth in sizes)
        raise TrainingError(
            f"the weights {weights} do not fit train.student {student}: they are a {found}, expected a {expected}; set "
            "train.student to the size of the weights"
        )
    encoder, info = read(AutoModel, folder)
    check_fit(network, weights, student, [f"encoder.{name}" for name in _unfit(info)])
    config.encoder_config = given
    network = DinoDPT(config)
    network.encoder.load_state_dict(encoder.state_dict())
    log.info("%s: encoder loaded; the decode head starts from random weights", weights)
    return network


def _with_imagenet(network: Network, student: str) -> Network:
    if not isinstance(network, EfficientNetLite):
        raise TrainingError(
            f"train.weights is imagenet, which is for students {PREFIX}0 to {PREFIX}2, but train.student is {student}; "
            "give train.weights a folder in transformers format or a hub name, or random"
        )
    network.encoder.load_state_dict(imagenet_weights(student))
    log.info("%s: ImageNet weights loaded; the decode head starts from random weights", student)
    return network


def _with_nvlabs(network: Network, student: str, path: Path) -> Network:
    if not path.is_file():
        raise TrainingError(f"train.weights is {path}, which is no file; download mit_b*.pth of NVlabs/SegFormer there")
    if not isinstance(network, SegFormer):
        raise TrainingError(f"{path} is a file of a MiT encoder, which train.student {student} has not; take b0 to b5")
    given, own = read_nvlabs(path), network.segformer.state_dict()
    unfit = [name for name in own if name not in given or given[name].shape != own[name].shape]
    unfit += [name for name in given if name not in own]
    check_fit(network, str(path), student, [f"segformer.{name}" for name in unfit])
    network.segformer.load_state_dict(given)
    log.info("%s: encoder loaded; the decode head starts from random weights", path)
    return network


def _unfit(info: dict[str, Any]) -> list[str]:
    return sorted({key for key, *_ in info["mismatched_keys"]} | set(info["missing_keys"]))


def check_fit(network: Network, weights: str, student: str | None, unfit: Sequence[str]) -> None:
    """The encoder must be all there; the decode head may be absent or made for other classes.

    student: as the settings name it; None if the weights' own folder says what they should be
    unfit:   names of parameters that are missing in the weights, or of another shape
    """
    in_encoder = [name for name in unfit if not network.is_head(name)]
    if in_encoder:
        wanted = f"train.student {student}" if student else "the config.json beside them"
        advice = "set train.student to the size of the weights" if student else "take a complete folder"
        raise TrainingError(
            f"the weights {weights} do not fit {wanted}: {len(in_encoder)} tensors are missing or of another shape, "
            f"e.g. {in_encoder[0]}; {advice}"
        )
    if unfit:
        log.info("%s: encoder loaded; %d tensors of the decode head start from random weights", weights, len(unfit))


def weights_folder(weights: str) -> Path:
    """A local folder as it is; a hub name from the local cache, downloaded first if need be."""
    if Path(weights).is_dir():
        return Path(weights)
    try:
        return Path(snapshot_download(weights, allow_patterns=WEIGHT_FILES))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise TrainingError(
            f"train.weights is {weights}, which is no folder, and the hub gave no such model ({_reason(error)}); "
            "give train.weights a folder in transformers format (on a machine with a network: "
            "hf download nvidia/mit-b0 --local-dir weights/mit-b0), or random"
        ) from None


def _reason(error: Exception) -> str:
    return first_line(error).removeprefix("Got: ").rstrip(".")
