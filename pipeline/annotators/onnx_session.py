"""An ONNX file as a session of onnxruntime, whose input are images and whose output are floats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import AnnotatorError
from pipeline.settings import did_you_mean

NUM_AXES, NUM_COLOURS = 4, 3  # of the images [B, 3, H, W]
INPUT_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
OUTPUT_TYPES = ("tensor(float)", "tensor(float16)", "tensor(double)")


def open_session(path: Path, threads: int) -> Any:
    """An onnxruntime session, on the GPU if the installed onnxruntime supports it.

    threads: CPU threads per operation
    raises:  AnnotatorError if the file is missing or cannot be loaded
    """
    import onnxruntime

    if not path.is_file():
        raise AnnotatorError(f"no network at {path}; correct annotate.onnx.model (it is relative to data.root)")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    available = onnxruntime.get_available_providers()
    providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in available]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime's own exception classes share no public base
        raise AnnotatorError(
            f"{path} is not a network that onnxruntime can run: {error}; export it again, or correct "
            "annotate.onnx.model"
        ) from None
    return session


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
