"""Students that transformers loads: DINO, and any other of its semantic segmentation networks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoModel, AutoModelForSemanticSegmentation, PreTrainedConfig

from pipeline.errors import TrainingError
from pipeline.pretrained import config_of, load
from train.students.any_network import AnyNetwork, tried
from train.students.dino import DinoDPT
from train.students.network import Network
from train.students.normalisation import normalisation_of

log = logging.getLogger(__name__)


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
    model, unfit = load(kind, folder, config=config, ignore_mismatched_sizes=True)
    network, prefix = (model, "") if isinstance(model, Network) else (AnyNetwork(model), "model.")
    network.mean, network.std = normalisation_of(folder, network)
    network.freeze_unused()
    if isinstance(network, AnyNetwork):
        network = tried(network, config.num_labels)
    return network, [f"{prefix}{name}" for name in unfit]


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
    encoder, unfit = load(AutoModel, folder)
    if unfit:
        return network, [f"encoder.{name}" for name in unfit]
    config.encoder_config = given
    network = DinoDPT(config)
    network.encoder.load_state_dict(encoder.state_dict())
    log.info("%s: encoder loaded; the decode head starts from random weights", weights)
    return network, []
