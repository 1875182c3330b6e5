"""The `onnx` annotator: any segmentation network as an ONNX file, its channels mapped to the run's classes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.annotators.contract import NUM_AXES, Images, Maps, Space
from pipeline.annotators.onnx_files import digest_of, files_of
from pipeline.annotators.onnx_session import INPUT_DTYPES, channel_axis, checked_input, checked_output, open_session
from pipeline.datasets import image_to_grid
from pipeline.errors import AnnotatorError
from pipeline.settings import DataSettings, OnnxSettings, did_you_mean

log = logging.getLogger(__name__)

SUM_TOLERANCE = 0.01  # of probabilities in float16


class OnnxAnnotator:
    """Implements the Annotator contract.

    If the network returns logits and every class is one channel, the maps are the logits of these channels. If a class
    has several channels or none, the maps are probabilities: the sum over the channels of the class, 0 without any.
    The `logit_bias` of a class is first added to the logits of each of its channels. In both cases P_c is therefore
    proportional to exp(bias_c) times the probability of class c without a bias.
    """

    def __init__(self, settings: OnnxSettings, data: DataSettings):
        self.settings = settings
        path = Path(data.root) / settings.model
        files = files_of(path) if path.is_file() else []
        self.session = open_session(path, settings.threads, settings.providers)
        self.runs_on: list[str] = self.session.get_providers()
        self.groups = channel_groups(settings, data.class_names)
        self.channels = settings.channels or [channel for group in self.groups for channel in group]
        self.bias = channel_bias(settings, data.class_names, self.channels)
        self.without_prompt = classes_without_channel(settings, data.class_names)
        self.input = checked_input(path, self.session)
        self.dtype = INPUT_DTYPES[self.input.type]
        self.output = checked_output(path, self.session, settings.output_name)
        self._refuse_normalisation_of_pixels(path)
        self.batch_size, self.input_size = self._input_shape(data.grid)
        one_channel_each = [[channel] for channel in self.channels] == self.groups
        self.space: Space = "logits" if settings.output == "logits" and one_channel_each else "probability"
        self.name = f"onnx {path.name}"
        self.is_checked = False
        self.fingerprint = digest_of(files, json.dumps(self._tracked(data), sort_keys=True).encode())

    def prepare(self, class_prompts: Sequence[Sequence[str]]) -> None:
        """Do nothing: prompts are not used, because `class_map` fixes the classes of the network."""

    def __call__(self, images: Images) -> Maps:
        """uint8 [B, H, W, 3] RGB -> float32 [B, K, h, w] in `space`, at the network's own resolution."""
        size = self.batch_size or len(images)
        outputs = [self._run(images[start : start + size], size) for start in range(0, len(images), size)]
        return np.concatenate([self._to_classes(output) for output in outputs])

    def _run(self, images: Images, size: int) -> Maps:
        """Network output [b, C, h, w] of b <= size images. If the network's batch size is fixed, they are padded."""
        resized = np.stack([image_to_grid(image, self.input_size) for image in images])
        inputs = self._normalised(resized).transpose(0, 3, 1, 2)
        padding = np.repeat(inputs[-1:], size - len(images), axis=0)
        batch = np.ascontiguousarray(np.concatenate([inputs, padding]))
        outputs: Maps = self.session.run([self.output], {self.input.name: batch})[0]
        if getattr(outputs, "ndim", None) != NUM_AXES or len(outputs) != size:
            raise AnnotatorError(
                f"{self.name} gives {self.output} of shape {list(getattr(outputs, 'shape', []))} for {size} images, "
                f"expected [{size}, C, h, w]; set annotate.onnx.output_name to such an output, or export the network "
                "without argmax"
            )
        if channel_axis(outputs.shape, self.input_size) == 3:
            outputs = self._channels_first(outputs)
        return outputs[: len(images)]

    def _channels_first(self, outputs: Maps) -> Maps:
        """[B, C, h, w] from [B, h, w, C]. The first call is logged."""
        if not self.is_checked:
            log.info(
                "annotate: %s has shape %s for an input of %d x %d, so its last axis is taken as the channels",
                self.output, list(outputs.shape), *self.input_size,
            )  # fmt: skip
        return outputs.transpose(0, 3, 1, 2)

    def _normalised(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """uint8 [B, H, W, 3] RGB -> the same shape, in the type of the network's input; uint8 pixels stay as they are.

        The computation is in float32 and its result is cast.
        """
        if self.dtype == np.uint8:
            return pixels
        mean, std = np.float32(self.settings.mean), np.float32(self.settings.std)
        normalised = (pixels.astype(np.float32) / 255 - mean) / std
        return normalised.astype(self.dtype, copy=False)

    def _refuse_normalisation_of_pixels(self, path: Path) -> None:
        """AnnotatorError if `mean` or `std` are set for a network whose input is uint8, which they cannot apply to."""
        given = sorted({"mean", "std"} & self.settings.model_fields_set)
        if self.dtype == np.uint8 and given:
            raise AnnotatorError(
                f"{path} takes pixels as uint8 and normalises them itself, but annotate.onnx.{given[0]} is set; remove "
                f"{' and '.join(f'annotate.onnx.{name}' for name in given)}"
            )

    def _to_classes(self, outputs: Maps) -> Maps:
        """Maps of the run's classes, float32 [b, K, h, w], from network output [b, C, h, w]."""
        if outputs.shape[1] == 1 and (np.mod(outputs, 1) == 0).all():
            raise AnnotatorError(
                f"{self.output} of {self.name} has one channel of whole numbers from {outputs.min():.0f} to "
                f"{outputs.max():.0f}, as after an argmax; set annotate.onnx.output_name to its scores, or export the "
                "network without argmax"
            )
        if max(self.channels) >= outputs.shape[1]:
            raise AnnotatorError(
                f"annotate.onnx.class_map names channel {max(self.channels)}, but the network has {outputs.shape[1]} "
                f"channels; use 0 to {outputs.shape[1] - 1}"
            )
        if not self.is_checked:
            self._refuse_another_kind(outputs)
            self.is_checked = True
        if self.space == "logits":
            return outputs[:, self.channels].astype(np.float32) + self.bias
        return np.stack([self._class_probabilities(output) for output in outputs])

    def _refuse_another_kind(self, outputs: Maps) -> None:
        """AnnotatorError if the output of the network is probabilities where the settings name logits, or vice versa.

        Without it, a second softmax would flatten probabilities, and negative logits would be divided by their sum.
        """
        if not np.isfinite(outputs).all():  # check_maps refuses these
            return
        is_fraction = bool((outputs >= 0).all() and (outputs <= 1 + SUM_TOLERANCE).all())
        is_softmax = is_fraction and outputs.shape[1] > 1
        is_softmax = is_softmax and np.abs(outputs.sum(axis=1, dtype=np.float32) - 1).max() <= SUM_TOLERANCE
        if self.settings.output == "logits" and is_softmax:
            raise AnnotatorError(
                f"annotate.onnx.output is logits, but {self.output} of {self.name} is in [0, 1] and sums to 1 over its "
                "channels, as after a softmax; set annotate.onnx.output: probabilities"
            )
        if self.settings.output == "probabilities" and not is_fraction:
            raise AnnotatorError(
                f"annotate.onnx.output is probabilities, but {self.output} of {self.name} has values from "
                f"{outputs.min():.3g} to {outputs.max():.3g}; set annotate.onnx.output: logits"
            )

    def _class_probabilities(self, output: Maps) -> Maps:
        """float32 [K, h, w] from one image's [C, h, w]: normalised over the chosen channels, then summed by class."""
        chosen = output[self.channels].astype(np.float32)
        if self.settings.output == "logits":
            logits = chosen + self.bias
            weighted = np.exp(logits - logits.max(axis=0))
        else:
            weighted = chosen * np.exp(self.bias - self.bias.max())  # the division removes the common factor
        total = weighted / weighted.sum(axis=0)
        row = {channel: i for i, channel in enumerate(self.channels)}
        summed = [total[[row[channel] for channel in group]].sum(axis=0) for group in self.groups]
        return np.minimum(np.stack(summed), 1)  # float sums can exceed 1 by one rounding error

    def _tracked(self, data: DataSettings) -> dict[str, Any]:
        """Everything that the maps depend on, besides the network. An empty bias is left out of the fingerprint."""
        settings = {name: value for name, value in self.settings.tracked().items() if value or name != "logit_bias"}
        return {"settings": settings, "classes": data.class_names, "input_size": list(self.input_size)}

    def _input_shape(self, grid: Sequence[int]) -> tuple[int | None, tuple[int, int]]:
        """Fixed batch size (None: any), and the size [height, width] to which images are resized."""
        batch, _, *declared = self.input.shape
        fixed = [length if isinstance(length, int) else None for length in declared]
        size = self.settings.input_size or [own or other for own, other in zip(fixed, grid, strict=True)]
        if any(own not in (None, length) for own, length in zip(fixed, size, strict=True)):
            takes = ", ".join("any" if own is None else str(own) for own in fixed)
            raise AnnotatorError(
                f"annotate.onnx.input_size is {size}, but the network takes only [{takes}]; remove "
                "annotate.onnx.input_size"
            )
        return (batch if isinstance(batch, int) else None), (size[0], size[1])


def channel_groups(settings: OnnxSettings, class_names: Sequence[str]) -> list[list[int]]:
    """Channels of every class, in the order of `class_names`.

    raises: AnnotatorError for a class that is unknown or missing in `class_map`, for a channel that is used twice or
            that `channels` lacks, and if no class has a channel
    """
    _refuse_unknown_classes("class_map", settings.class_map, class_names)
    missing = [name for name in class_names if name not in settings.class_map]
    if missing:
        raise AnnotatorError(
            f"annotate.onnx.class_map has no entry for {', '.join(missing)}; add them, with [] for a class that the "
            "network does not predict"
        )
    groups = [settings.class_map[name] for name in class_names]
    channels = [channel for group in groups for channel in group]
    if not channels:
        raise AnnotatorError(
            "annotate.onnx.class_map has no channel for any class; add the channels of at least one class"
        )
    if len(set(channels)) < len(channels):
        twice = sorted({channel for channel in channels if channels.count(channel) > 1})
        raise AnnotatorError(
            f"annotate.onnx.class_map uses channels {twice} more than once; give each channel to one class only"
        )
    missing_channels = set(channels) - set(settings.channels or channels)
    if missing_channels:
        raise AnnotatorError(
            f"annotate.onnx.channels lacks {sorted(missing_channels)}, which annotate.onnx.class_map uses; add them"
        )
    return groups


def channel_bias(settings: OnnxSettings, class_names: Sequence[str], channels: Sequence[int]) -> Maps:
    """Bias that is added to the logits of each of the chosen channels, 0 for channels of no class.

    returns: float32 [C, 1, 1]
    raises:  AnnotatorError for the bias of a class that is unknown or has no channel
    """
    _refuse_unknown_classes("logit_bias", settings.logit_bias, class_names)
    useless = [name for name in settings.logit_bias if name in classes_without_channel(settings, class_names)]
    if useless:
        raise AnnotatorError(
            f"annotate.onnx.logit_bias names {', '.join(useless)}, but annotate.onnx.class_map has no channel for "
            "them; remove them from annotate.onnx.logit_bias"
        )
    by_channel = {channel: bias for name, bias in settings.logit_bias.items() for channel in settings.class_map[name]}
    return np.array([by_channel.get(channel, 0.0) for channel in channels], np.float32)[:, None, None]


def classes_without_channel(settings: OnnxSettings, class_names: Sequence[str]) -> list[str]:
    """Classes for which the network has no channel, in the order of `class_names`."""
    return [name for name in class_names if not settings.class_map.get(name)]


def _refuse_unknown_classes(setting: str, names: Iterable[str], class_names: Sequence[str]) -> None:
    for name in names:
        if name not in class_names:
            hint = did_you_mean(name, class_names)
            raise AnnotatorError(
                f"annotate.onnx.{setting} names {name!r}, which is not in data.classes{hint}; correct or remove it"
            )
