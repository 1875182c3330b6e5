"""Which folders of students hold a network whose encoder we can take apart."""

from __future__ import annotations

from pathlib import Path

from pipeline.files import read_json

DIVISIBLE = ("dino_dpt", "efficientnet_lite_fpn", "segformer")
"""`model_type` of the networks with a known encoder. Of any other network, only the logits are known."""


def indivisible_network(student: str) -> str | None:
    """`model_type` of the network in a student's folder if the feature maps of its encoder are unknown.

    returns: None for our own students; also for a folder without a readable config.json, which is reported elsewhere
    """
    try:
        kind = read_json(Path(student) / "config.json")["model_type"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return None if kind in DIVISIBLE else str(kind)
