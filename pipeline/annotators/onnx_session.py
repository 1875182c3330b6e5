"""An ONNX file as a session of onnxruntime, whose input are images and whose output are floats."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import AnnotatorError
from pipeline.settings import did_you_mean

log = logging.getLogger(__name__)

NUM_AXES, NUM_COLOURS = 4, 3  # of the images [B, 3, H, W]
INPUT_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
OUTPUT_TYPES = ("tensor(float)", "tensor(float16)", "tensor(double)")
PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""Words of `annotate.onnx.providers` -> names of onnxruntime."""
DEFAULT_PROVIDERS = ("cuda", "cpu")


def open_session(path: Path, threads: int, providers: Sequence[str] | None = None) -> Any:
    """An onnxruntime session; its execution providers are logged.

    threads:   CPU threads per operation
    providers: words of PROVIDERS, the preferred one first; default: CUDA if the installed onnxruntime has it, else CPU
    raises:    AnnotatorError if the file is missing or cannot be loaded, or a provider is not installed or fails
    """
    import onnxruntime

    if not path.is_file():
        raise AnnotatorError(f"no network at {path}; correct annotate.onnx.model (it is relative to data.root)")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    chosen = _chosen_providers(providers, onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(path, options, providers=chosen)
    except Exception as error:  # onnxruntime's own exception classes share no public base
        raise AnnotatorError(
            f"{path} is not a network that onnxruntime can run: {error}; export it again, or correct "
            "annotate.onnx.model"
        ) from None
    failed = [name for name in chosen if name not in session.get_providers()]  # onnxruntime goes on without them
    if failed and providers is not None:
        raise AnnotatorError(
            f"annotate.onnx.providers lists {_words(failed)}, which onnxruntime has but cannot start (its own lines "
            "above have the reason); install what is missing, or remove it from annotate.onnx.providers"
        )
    log.info("annotate: %s runs on %s", path.name, _words(session.get_providers()))
    return session


def _chosen_providers(words: Sequence[str] | None, available: Sequence[str]) -> list[str]:
    """Names of providers, the preferred one first; AnnotatorError for one that is not installed."""
    if words is None:
        return [PROVIDERS[word] for word in DEFAULT_PROVIDERS if PROVIDERS[word] in available]
    missing = [word for word in words if PROVIDERS[word] not in available]
    if missing:
        raise AnnotatorError(
            f"annotate.onnx.providers lists {', '.join(missing)}, but the installed onnxruntime has "
            f"{_words(available)}; install another one (onnxruntime-gpu, onnxruntime-openvino), or remove it from "
            "annotate.onnx.providers"
        )
    return [PROVIDERS[word] for word in words]


def _words(names: Sequence[str]) -> str:
    """Providers as words of PROVIDERS, others by their own names."""
    word_of = {name: word for word, name in PROVIDERS.items()}
    return ", ".join(word_of.get(name, name) for name in names)


def checked_input(path: Path, session: Any) -> Any:
    """The only input of a network; AnnotatorError for several inputs, and for another shape or type than of images."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(f"{one.name} {one.shape}" for one in inputs)
        raise AnnotatorError(
            f"{path} takes {len(inputs)} inputs ({names}), expected one, the images [B, 3, H, W]; export it with the "
            "other inputs as constants"
        )
    shape = inputs[0].shape
    if len(shape) != NUM_AXES or shape[1] != NUM_COLOURS:
        raise AnnotatorError(
            f"{path} takes an input of shape {shape}, expected [B, 3, H, W]; export it with that input"
        )
    if inputs[0].type not in INPUT_DTYPES:
        raise AnnotatorError(
            f"{path} takes an input of {inputs[0].type}, expected one of {', '.join(INPUT_DTYPES)}; export it "
            "with such an input"
        )
    return inputs[0]


def channel_axis(shape: Sequence[int], size: Sequence[int]) -> int:
    """Axis of an output [B, C, h, w] or [B, h, w, C] that holds the channels: 1, or 3 if only that fits the input.

    Height and width of an output are those of the input divided by one number, each rounded to a whole number.

    shape: of the output
    size:  height and width of the input
    """
    return 3 if _is_in_proportion(shape[1:3], size) and not _is_in_proportion(shape[2:4], size) else 1


def _is_in_proportion(maps: Sequence[int], size: Sequence[int]) -> bool:
    (h, w), (height, width) = maps, size
    return abs(h / height - w / width) <= 1 / height + 1 / width


def fixed_channels(shape: Sequence[Any], size: Sequence[int]) -> int | None:
    """Number of channels of an output, if its declared shape says it; None if not. size: height, width of the input"""
    if len(shape) != NUM_AXES:
        return None
    axis = channel_axis((1, *shape[1:]), size) if all(isinstance(length, int) for length in shape[1:]) else 1
    return shape[axis] if isinstance(shape[axis], int) else None


def checked_output(path: Path, session: Any, name: str | None) -> str:
    """Name of the output to use; AnnotatorError for an unknown name, and for an output that is not floats.

    name: default: the first output
    """
    outputs = {one.name: one.type for one in session.get_outputs()}
    chosen = next(iter(outputs)) if name is None else name
    if chosen not in outputs:
        raise AnnotatorError(
            f"annotate.onnx.output_name is {chosen!r}, but the outputs of {path} are {', '.join(outputs)}; set it to "
            f"one of them{did_you_mean(chosen, list(outputs))}"
        )
    if outputs[chosen] not in OUTPUT_TYPES:
        raise AnnotatorError(
            f"the output {chosen} of {path} is {outputs[chosen]}, expected one of {', '.join(OUTPUT_TYPES)}; set "
            "annotate.onnx.output_name to such an output, or export the network without argmax"
        )
    return chosen
