"""The demo's annotator: the network of `network.py`, trained on source scenes and set to work on target scenes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file

from pipeline.demo.network import STRIDE, SegmentationNetwork
from pipeline.demo.scenes import CLASS_NAMES
from pipeline.errors import AnnotatorError

WEIGHTS = Path(__file__).with_name("annotator.safetensors")
CODE_VERSION = "1"  # raise it when the same weights would give other maps


class SceneAnnotator:
    """Keeps the Annotator contract: prompts are matched to the names of the sea creatures it knows."""

    def __init__(self, weights: Path, device: str):
        self.network = SegmentationNetwork(len(CLASS_NAMES)).eval().to(device)
        self.network.load_state_dict(load_file(weights, device=device))
        self.device = device
        self.channels = list(range(len(CLASS_NAMES)))
        self.name = "demo network"
        self.space: Literal["logits"] = "logits"
        identity = weights.read_bytes() + CODE_VERSION.encode() + " ".join(CLASS_NAMES).encode()
        self.fingerprint = hashlib.sha256(identity).hexdigest()

    def prepare(self, class_prompts: Sequence[Sequence[str]]) -> None:
        """Find each class among the known names by any of its aliases; AnnotatorError if none is known."""
        self.channels = [self._channel(aliases) for aliases in class_prompts]

    def _channel(self, aliases: Sequence[str]) -> int:
        known = [CLASS_NAMES.index(alias.lower()) for alias in aliases if alias.lower() in CLASS_NAMES]
        if not known:
            raise AnnotatorError(f"the demo network knows {', '.join(CLASS_NAMES)}, not {' / '.join(aliases)}")
        return known[0]

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [B, H, W, 3] -> logits float32 [B, K, h, w] at about a quarter of the resolution."""
        batch = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2) / 255.0
        size = [max(STRIDE, round(length / STRIDE) * STRIDE) for length in images.shape[1:3]]
        fitted = F.interpolate(batch, size=size, mode="bilinear", align_corners=False)
        logits = self.network(fitted)[:, self.channels]
        return logits.float().cpu().numpy()


def build(device: str = "cpu") -> SceneAnnotator:
    """Factory for `annotate.python`, with the committed weights."""
    return SceneAnnotator(WEIGHTS, device)
