"""The `onnx` annotator: any exported segmentation network, its channels mapped to our classes."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.annotators.contract import Images, Maps, Space
from pipeline.datasets import image_to_grid
from pipeline.errors import AnnotatorError
from pipeline.resample import softmax
from pipeline.settings import DataSettings, OnnxSettings, did_you_mean

log = logging.getLogger(__name__)


class OnnxAnnotator:
    """Keeps the Annotator contract.

    Where every class is one channel of a network that returns logits, the chosen logits are passed on. Where a class
    sums several channels, or has none, the maps are probabilities: the sum over its channels, which is 0 without any.
    A class's `logit_bias` is added to the logits of each of its channels first, so both kinds of maps follow
    P_c proportional to exp(bias_c) times the class's own probability.
    """

    def __init__(self, settings: OnnxSettings, data: DataSettings):
        self.settings = settings
        path = Path(data.root) / settings.model
        self.session = open_session(path, settings.threads)
        self.groups = channel_groups(settings, data.class_names)
        self.channels = settings.channels or [channel for group in self.groups for channel in group]
        self.bias = channel_bias(settings, data.class_names, self.channels)
        self.wordless = wordless_classes(settings, data.class_names)
        self.input = self.session.get_inputs()[0]
        self.output = settings.output_name or self.session.get_outputs()[0].name
        self.batch_size, self.input_size = self._input_shape(data.grid)
        one_channel_each = [[channel] for channel in self.channels] == self.groups
        self.space: Space = "logits" if settings.output == "logits" and one_channel_each else "probability"
        self.name = f"onnx {path.name}"
        content = path.read_bytes() + json.dumps(self._described(data), sort_keys=True).encode()
        self.fingerprint = hashlib.sha256(content).hexdigest()

    def prepare(self, class_prompts: Sequence[Sequence[str]]) -> None:
        """A closed-vocabulary network: its classes are fixed by `class_map`, prompts say nothing to it."""
        if self.wordless:
            log.warning("annotate: %s (annotate.onnx.class_map)", never_labeled(self.wordless))

    def __call__(self, images: Images) -> Maps:
        size = self.batch_size or len(images)
        parts = [self._run(images[start : start + size], size) for start in range(0, len(images), size)]
        return np.concatenate([self._to_classes(part) for part in parts])

    def _run(self, images: Images, size: int) -> Maps:
        """Network output [b, C, h, w]; a last, smaller batch is padded where the network's batch is fixed."""
        resized = np.stack([image_to_grid(image, self.input_size) for image in images])
        mean, std = np.float32(self.settings.mean), np.float32(self.settings.std)
        inputs = ((resized.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)
        padding = np.repeat(inputs[-1:], size - len(images), axis=0)
        batch = np.ascontiguousarray(np.concatenate([inputs, padding]))
        outputs: Maps = self.session.run([self.output], {self.input.name: batch})[0]
        return outputs[: len(images)]

    def _to_classes(self, outputs: Maps) -> Maps:
        if max(self.channels) >= outputs.shape[1]:
            raise AnnotatorError(
                f"annotate.onnx.class_map names channel {max(self.channels)}, but the network has {outputs.shape[1]}"
            )
        if self.space == "logits":
            return outputs[:, self.channels].astype(np.float32) + self.bias
        return np.stack([self._class_probabilities(output) for output in outputs])

    def _class_probabilities(self, output: Maps) -> Maps:
        """float32 [K, h, w] from one image's [C, h, w]: renormalised over the chosen channels, then summed by class."""
        chosen = output[self.channels].astype(np.float32)
        if self.settings.output == "logits":
            total = softmax(chosen + self.bias)
        else:
            weighted = chosen * np.exp(self.bias - self.bias.max())  # a common factor, which the division removes
            total = weighted / weighted.sum(axis=0)
        position = {channel: i for i, channel in enumerate(self.channels)}
        summed = [total[[position[channel] for channel in group]].sum(axis=0) for group in self.groups]
        return np.minimum(np.stack(summed), 1)  # float sums can exceed 1 by one rounding error

    def _described(self, data: DataSettings) -> dict[str, Any]:
        """What the maps depend on, besides the network; a bias that is not set leaves older caches valid."""
        settings = {name: value for name, value in self.settings.tracked().items() if value or name != "logit_bias"}
        return {"settings": settings, "classes": data.class_names, "input_size": list(self.input_size)}

    def _input_shape(self, grid: Sequence[int]) -> tuple[int | None, tuple[int, int]]:
        """Fixed batch size (None: any) and the size that images are stretched to."""
        batch, _, height, width = self.input.shape
        own = [height, width] if isinstance(height, int) and isinstance(width, int) else None
        wanted = self.settings.input_size or own or list(grid)
        if own is not None and own != wanted:
            raise AnnotatorError(f"annotate.onnx.input_size is {wanted}, but the network takes only {own}; remove it")
        return (batch if isinstance(batch, int) else None), (wanted[0], wanted[1])


def open_session(path: Path, threads: int) -> Any:
    """An onnxruntime session, on the GPU if this onnxruntime has one; AnnotatorError if the file cannot be used."""
    import onnxruntime

    if not path.is_file():
        raise AnnotatorError(f"no network {path}; correct annotate.onnx.model (it is relative to data.root)")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    known = onnxruntime.get_available_providers()
    providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in known]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime's own exception classes share no public base
        raise AnnotatorError(f"{path} is not a network that onnxruntime can run: {error}") from None
    shape = session.get_inputs()[0].shape
    if len(shape) != 4 or shape[1] != 3:
        raise AnnotatorError(f"{path} takes an input of shape {shape}, expected [B, 3, H, W]; export it that way")
    return session


def channel_groups(settings: OnnxSettings, class_names: Sequence[str]) -> list[list[int]]:
    """Channels of every class in our order; AnnotatorError for unknown, missing or doubly used ones."""
    _refuse_unknown_classes("class_map", settings.class_map, class_names)
    missing = [name for name in class_names if name not in settings.class_map]
    if missing:
        raise AnnotatorError(
            f"annotate.onnx.class_map has no channel for {', '.join(missing)}; add them, with [] for a class that the "
            "network has no word for"
        )
    groups = [settings.class_map[name] for name in class_names]
    channels = [channel for group in groups for channel in group]
    if not channels:
        raise AnnotatorError("annotate.onnx.class_map has no channel for any class; name those of at least one")
    if len(set(channels)) < len(channels):
        raise AnnotatorError("annotate.onnx.class_map uses a channel twice; a channel belongs to one class")
    lost = set(channels) - set(settings.channels or channels)
    if lost:
        raise AnnotatorError(f"annotate.onnx.channels lacks {sorted(lost)}, which class_map uses; add them")
    return groups


def channel_bias(settings: OnnxSettings, class_names: Sequence[str], channels: Sequence[int]) -> Maps:
    """float32 [C, 1, 1]: what is added to the logits of each of the chosen channels; 0 for those of no class.

    raises: AnnotatorError for the bias of a class that is unknown or has no channel
    """
    _refuse_unknown_classes("logit_bias", settings.logit_bias, class_names)
    useless = [name for name in settings.logit_bias if name in wordless_classes(settings, class_names)]
    if useless:
        raise AnnotatorError(
            f"annotate.onnx.logit_bias names {', '.join(useless)}, for which class_map has no channel; remove them"
        )
    by_channel = {channel: bias for name, bias in settings.logit_bias.items() for channel in settings.class_map[name]}
    return np.array([by_channel.get(channel, 0.0) for channel in channels], np.float32)[:, None, None]


def wordless_classes(settings: OnnxSettings, class_names: Sequence[str]) -> list[str]:
    """Classes that the network has no channel for, in our order."""
    return [name for name in class_names if not settings.class_map.get(name)]


def never_labeled(wordless: Sequence[str]) -> str:
    """What classes without a channel mean, as the log and the doctor say it."""
    one = len(wordless) == 1
    return (
        f"{', '.join(wordless)} {'has' if one else 'have'} no channel: {'it' if one else 'they'} can never be labeled"
    )


def _refuse_unknown_classes(setting: str, names: Iterable[str], class_names: Sequence[str]) -> None:
    for name in names:
        if name not in class_names:
            hint = did_you_mean(name, class_names)
            raise AnnotatorError(f"annotate.onnx.{setting} names {name!r}, which is not in data.classes{hint}")
