"""Networks that are plain torch modules, read and written in transformers format without importing transformers."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.files import read_json
from pipeline.pretrained import holds_none
from train.students.network import Network
from train.students.normalisation import normalisation_of

DEFAULT_LABELS = {0: "LABEL_0", 1: "LABEL_1"}
"""Class names of a config.json without class names, as in transformers."""


@dataclass(frozen=True, kw_only=True)
class PlainConfig:
    """The content of config.json that describes a network.

    id2label: names of the classes by their index
    """

    model_type: ClassVar[str]
    architecture: ClassVar[str]
    """Name of the class that loads the folder in transformers."""
    id2label: dict[int, str] = field(default_factory=DEFAULT_LABELS.copy)

    @classmethod
    def of(cls, content: dict[str, Any]) -> Self:
        """The configuration in the content of a config.json; unknown fields are left out."""
        names = {one.name for one in fields(cls)}
        known = {name: value for name, value in content.items() if name in names}
        return cls(**known | {"id2label": labels_of(content)})

    def content(self) -> dict[str, Any]:
        """The content that transformers writes to config.json."""
        return asdict(self) | {
            "architectures": [self.architecture],
            "dtype": "float32",
            "label2id": {name: index for index, name in self.id2label.items()},
            "model_type": self.model_type,
            "transformers_version": version("transformers"),
        }


class PlainNetwork(Network):
    """A network that is built from its configuration alone."""

    config_class: ClassVar[type[PlainConfig]]

    def __init__(self, config: Any):
        super().__init__()
        self.config = config

    def initialise(self, module: nn.Module) -> None:
        """Initialise the parameters and buffers of one layer, with random values from torch's global generator."""
        raise NotImplementedError

    @staticmethod
    def saved_name(name: str) -> str:
        """The name in model.safetensors of a tensor of the network's state."""
        return name

    @staticmethod
    def own_name(name: str) -> str:
        """The name in the network's state of a tensor of a file of weights."""
        return name

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.config.content(), indent=2, sort_keys=True)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
        weights = {self.saved_name(name): tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    @classmethod
    def read(cls, folder: Path, config: Any) -> tuple[Self, list[str]]:
        """Load a network with a configuration from a folder.

        Tensors that the folder lacks, or has with another shape, are drawn from torch's global generator.

        returns: the network in evaluation mode, and the names of these tensors
        raises:  NetworkError for a folder without readable weights
        """
        given = {cls.own_name(name): tensor for name, tensor in read_weights(folder).items()}
        with torch.random.fork_rng(devices=[]):  # these initial weights are replaced
            network = cls(config)
        state = network.state_dict()
        fitting = {name: given[name] for name in state if name in given and given[name].shape == state[name].shape}
        for path, module in network.named_modules():
            if any(f"{path}.{name}" not in fitting for name in module.state_dict() if "." not in name):
                network.initialise(module)
        network.load_state_dict(network.state_dict() | fitting)
        network.mean, network.std = normalisation_of(folder, network)
        return network.eval(), sorted(state.keys() - fitting.keys())


def labels_of(content: dict[str, Any]) -> dict[int, str]:
    """Names of the classes by their index, from the content of a config.json."""
    labels = content.get("id2label")
    return DEFAULT_LABELS if labels is None else {int(index): str(name) for index, name in labels.items()}


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json; NetworkError if it is missing or unreadable."""
    try:
        content: dict[str, Any] = read_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise holds_none(folder, error) from None
    return content


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of model.safetensors or pytorch_model.bin; NetworkError if both are missing or unreadable."""
    path = folder / "pytorch_model.bin"
    try:
        if not path.is_file() or (folder / "model.safetensors").exists():
            return load_file(folder / "model.safetensors")
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, SafetensorError, pickle.UnpicklingError) as error:
        raise holds_none(folder, error) from None
    return weights


def class_names_of(folder: Path) -> list[str]:
    """Names of the classes of a saved student, in the order of their indices; NetworkError without a student."""
    return [name for _, name in sorted(labels_of(read_config(folder)).items())]
