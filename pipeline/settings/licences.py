"""Licence notes on published weights."""

from __future__ import annotations

from pathlib import Path


def licence_note(weights: str, others: str) -> str | None:
    """Licence note on published weights, by their name: one line, or None if no restriction is known.

    others: what can be used instead, with its verb
    """
    name = Path(weights).name.replace("_", "-")
    if name.startswith("sam3"):
        return sam_licence_note(weights)
    if not (weights.startswith("nvidia/") or name.startswith(("mit-b", "segformer-b"))):
        return None
    return (
        f"the weights {weights} are under NVIDIA's source code licence: research and evaluation only, no commercial "
        f"use; {others} Apache-2.0"
    )


def sam_licence_note(weights: str) -> str:
    """Licence note on weights of SAM 3: one line."""
    return (
        f"the weights {weights} are under the SAM License, or derived from such weights (SAM3-LiteText, tagged "
        "Apache-2.0): commercial use is allowed, military use is not"
    )
