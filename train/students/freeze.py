"""Parts of a student that keep what they came with."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from pipeline.errors import TrainingError
from train.students.drop import DropPath
from train.students.network import Network
from train.students.norm import BatchNorm2d


def freeze(network: Network, num_stages: int, norms: bool) -> None:
    """Freeze the first stages of the encoder, and the statistics of its batch norms, in place.

    num_stages: of `Network.encoder_stages`; their weights and statistics stay, and they drop nothing
    norms:      every batch norm of the encoder keeps the statistics that it came with; its scale and shift learn
    raises:     TrainingError for more stages than the encoder has, or an encoder whose stages are not known
    """
    stages = network.encoder_stages()
    if num_stages > len(stages):
        known = f"has {len(stages)} stages" if stages else "does not tell its stages apart"
        raise TrainingError(f"train.frozen_stages is {num_stages}, but this student's encoder {known}; lower it")
    for stage in stages[:num_stages]:
        stage.requires_grad_(False)
        _keep_statistics(stage.modules())
        for module in stage.modules():
            if isinstance(module, DropPath):
                module.probability = 0.0
    if norms:
        _keep_statistics(module for name, module in network.named_modules() if not network.is_head(f"{name}."))


def _keep_statistics(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        if isinstance(module, BatchNorm2d):
            module.is_frozen = True
