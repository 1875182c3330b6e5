"""Freezing of encoder stages and of batch norm statistics."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from pipeline.errors import TrainingError
from train.students.drop import DropPath
from train.students.network import Network
from train.students.norm import BatchNorm2d


def freeze(network: Network, num_stages: int, norms: bool) -> None:
    """Freeze the first stages of the encoder, and the statistics of its batch norms, in place.

    num_stages: number of stages of `Network.encoder_stages` to freeze: their weights and statistics do not change, and
                they have no drop path
    norms:      whether all batch norms of the encoder keep their running statistics; their scale and shift are trained
    raises:     TrainingError for more stages than the encoder has, or an encoder whose stages are unknown
    """
    stages = network.encoder_stages()
    if num_stages > len(stages):
        problem = f"has {len(stages)} stages" if stages else "has no known stages"
        raise TrainingError(
            f"train.frozen_stages is {num_stages}, but this student's encoder {problem}; set train.frozen_stages: "
            f"{len(stages)} or lower"
        )
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
