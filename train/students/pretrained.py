"""Students that transformers loads: DINO, and any other of its semantic segmentation networks."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoModelForSemanticSegmentation, PreTrainedConfig

from pipeline.errors import TrainingError
from train.students.any_network import AnyNetwork, tried
from train.students.dino import DinoDPT
from train.students.network import Network
from train.students.normalisation import normalisation_of
from train.students.plain import holds_none, reason_of

log = logging.getLogger(__name__)

ATTENTION = ("eager", "sdpa")  # of transformers and torch themselves
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Options of transformers: nothing from the hub, and no Python code from a folder."""


def load_pretrained(folder: Path) -> tuple[Network, list[str]]:
    """Load the network in a folder.

    Parameters that the folder lacks, or has with another shape, are drawn from torch's global generator.

    returns: the network, and the names of these parameters
    raises:  TrainingError for a folder without a network, or with one that cannot be trained
    """
    return _network(folder, config_of(folder))


def read_pretrained(folder: Path, class_names: Sequence[str], drop_path: float) -> tuple[Network, list[str]]:
    """As `load_pretrained`, for other classes."""
    config = config_of(folder)
    config.id2label = dict(enumerate(class_names))
    config.label2id = {name: index for index, name in enumerate(class_names)}
    config.use_auxiliary_head = False  # its logits are not used
    if hasattr(config, "drop_path_rate"):
        config.drop_path_rate = drop_path
    return _network(folder, config)


def with_pretrained(network: Network, student: str, weights: str, folder: Path) -> tuple[Network, list[str]]:
    """As `load_pretrained`, with the configuration of `network`; for DINO the folder may hold only the encoder."""
    if isinstance(network, DinoDPT) and config_of(folder).model_type != DinoDPT.config_class.model_type:
        return _with_encoder(network, student, weights, folder)
    own: Any = network.model if isinstance(network, AnyNetwork) else network
    return _network(folder, own.config)


def _network(folder: Path, config: PreTrainedConfig) -> tuple[Network, list[str]]:
    kind = DinoDPT if config.model_type == DinoDPT.config_class.model_type else AutoModelForSemanticSegmentation
    model, info = _read(kind, folder, config=config, ignore_mismatched_sizes=True)
    network, prefix = (model, "") if isinstance(model, Network) else (AnyNetwork(model), "model.")
    network.mean, network.std = normalisation_of(folder, network)
    network.freeze_unused()
    if isinstance(network, AnyNetwork):
        network = tried(network, config.num_labels)
    return network, [f"{prefix}{name}" for name in _unfit(info)]


def config_of(folder: Path) -> PreTrainedConfig:
    """The configuration in a folder, as transformers reads it; TrainingError if there is none."""
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, **LOCAL)  # nosec B615: only local files
    except (OSError, ValueError, SafetensorError) as error:
        raise holds_none(folder, error) from None
    _refuse_kernels(folder, config)
    return config


def _refuse_kernels(folder: Path, config: PreTrainedConfig) -> None:
    """TrainingError if a configuration names a kernel of the hub (`owner/name`), which transformers would download."""
    for part in (config, *(value for value in vars(config).values() if isinstance(value, PreTrainedConfig))):
        kernel = getattr(part, "_attn_implementation", None)
        if isinstance(kernel, str) and kernel not in ATTENTION:
            raise TrainingError(
                f"{folder / 'config.json'} asks for the attention {kernel!r}, which may be code from the hub; expected "
                f"one of {', '.join(ATTENTION)}; remove attn_implementation from it"
            )


def _read(kind: Any, folder: Path, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Load a network of `kind` from a folder; returns it, and transformers' information about missing tensors."""
    try:
        loaded: tuple[Any, dict[str, Any]] = kind.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, use_kernels=False, **LOCAL, **kwargs
        )
    except ImportError as error:  # a backbone of timm, for instance
        raise _lacks_library(folder, error) from None
    except (OSError, ValueError, SafetensorError) as error:
        raise holds_none(folder, error) from None
    return loaded


def _lacks_library(folder: Path, error: ImportError) -> TrainingError:
    install = re.search(r"pip install [\w.-]+", str(error))
    fix = f"run {install[0]}" if install else "install that library"
    reason = reason_of(error).partition(". ")[0]
    return TrainingError(f"the network in {folder} needs a library that is not installed ({reason}); {fix}")


def _with_encoder(network: DinoDPT, student: str, weights: str, folder: Path) -> tuple[DinoDPT, list[str]]:
    """As `with_pretrained`, from a folder with the encoder only, whose details are taken from the folder's config.json.

    These details are for instance the size of the table of position embeddings, and the registers.
    """
    config, given = network.config, config_of(folder)
    sizes = [(c.model_type, c.hidden_size, c.num_hidden_layers) for c in (given, config.encoder_config)]
    if sizes[0] != sizes[1]:
        actual, expected = (f"{kind} of width {width} and {depth} layers" for kind, width, depth in sizes)
        raise TrainingError(
            f"the weights {weights} do not fit train.student {student}: they are a {actual}, expected a {expected}; "
            "set train.student to the size of the weights"
        )
    encoder, info = _read(AutoModel, folder)
    if unfit := _unfit(info):
        return network, [f"encoder.{name}" for name in unfit]
    config.encoder_config = given
    network = DinoDPT(config)
    network.encoder.load_state_dict(encoder.state_dict())
    log.info("%s: encoder loaded; the decode head starts from random weights", weights)
    return network, []


def _unfit(info: dict[str, Any]) -> list[str]:
    return sorted({key for key, *_ in info["mismatched_keys"]} | set(info["missing_keys"]))
