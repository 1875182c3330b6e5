"""Exports the student of a run as one file, ONNX or TorchScript: images of any size in, probabilities out."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.errors import TrainingError, first_line
from pipeline.files import remove_leftovers, replacing
from pipeline.receipt import package_versions
from pipeline.run import Run, TrainingStage
from pipeline.settings import EvaluateSettings, Settings, TrainSettings
from pipeline.yaml_text import yaml_text
from train.evaluate import finished_stages
from train.losses import upsampled
from train.machine.device import compute_of
from train.student import Student, load_student, stretched
from train.students import Network, class_names_of

Format = Literal["onnx", "torchscript"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torchscript": ".pt"}
METADATA_FILE = "metadata.json"  # in a TorchScript file

OPSET = 18  # the first whose Resize is that of torch for every size
TRACED = (2, 70, 99)  # batch size, height and width; no side is one that a network takes without resizing
CHECKED = ((2, 40, 56), (1, 211, 133), (1, 375, 500))
TOLERANCE = 1e-3  # of probabilities; float32 kernels differ by about 1e-6, and a size that is frozen by far more


class Exported(NamedTuple):
    """A written file.

    stage:       whose student it is
    class_names: in the order of the channels of its output
    difference:  largest difference of its probabilities from those of torch, over images of the sizes in CHECKED
    """

    path: Path
    stage: TrainingStage
    class_names: list[str]
    difference: float


def export_student(settings: Settings, form: Format, out: Path | None = None) -> Exported:
    """Write the student of the last finished training stage, with normalisation and resizing inside.

    Input `image`, uint8 [B, 3, H, W] RGB; output `probabilities`, float32 [B, K, H, W] in [0, 1], the same as
    `conformalsam predict --probabilities` without further options writes. B, H and W are free. The file is written on
    the CPU in float32, and appears only after the check. Its metadata hold the names of the classes as JSON.

    out:    file; default: export/student.onnx or .pt of the run
    raises: TrainingError without a finished stage, without the package onnx, and for a network that cannot be exported
            or computes something else for images of other sizes; StoreError for changed settings or files
    """
    if form == "onnx" and importlib.util.find_spec("onnx") is None:
        raise TrainingError(
            "an export to onnx needs the package onnx, which is not installed (it is in the extra conformalsam[onnx]); "
            "run pip install onnx, or give --to torchscript"
        )
    run = Run(settings)
    stage = list(finished_stages(run, run.samples("evaluate")))[-1]
    folder = run.folder.student(stage)
    run.check_file(stage, folder)
    student, names = load_student(folder, compute_of(TrainSettings(device="cpu"))), class_names_of(folder)
    metadata = {
        "class_names": json.dumps(names, ensure_ascii=False),
        "run": settings.name,
        "conformalsam": package_versions()["conformalsam"],
    }
    out = out or run.folder.export(f"student{SUFFIXES[form]}")
    remove_leftovers(out.parent)
    with replacing(out) as temporary:
        try:
            _write(student, form, metadata, temporary)
            difference = largest_difference(student, READERS[form](temporary))
        except OSError:
            raise
        except Exception as error:  # of torch, onnx or onnxruntime, which share no class of errors
            raise _refusal(student, form, first_line(error)) from None
        if not difference <= TOLERANCE:
            raise _refusal(student, form, f"its probabilities differ from torch's by up to {difference:.2g}")
    return Exported(out, stage, names, difference)


class ExportedNetwork(nn.Module):
    """A student as a module: uint8 [B, 3, H, W] RGB -> probabilities, float32 [B, K, H, W]."""

    mean: Tensor
    std: Tensor

    def __init__(self, student: Student):
        super().__init__()
        self.network: Network = student.model
        self.register_buffer("mean", student.mean)
        self.register_buffer("std", student.std)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        pixels = stretched((images - self.mean) / self.std, self.network)
        return upsampled(self.network(pixels), images.shape[-2:]).softmax(dim=1)


@torch.no_grad()
def _write(student: Student, form: Format, metadata: dict[str, str], path: Path) -> None:
    """Trace the student and write it. TorchScript's tracer serves both formats; its warnings are for developers."""
    images = _random_images(*TRACED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(ExportedNetwork(student), images, check_trace=False)  # type: ignore[no-untyped-call]
        if form == "onnx":
            _write_onnx(traced, images, metadata, path)
        else:
            torch.jit.save(traced, path, _extra_files={METADATA_FILE: json.dumps(metadata)})


def _write_onnx(traced: torch.jit.ScriptModule, images: Tensor, metadata: dict[str, str], path: Path) -> None:
    import onnx

    sizes = {0: "batch", 2: "height", 3: "width"}
    torch.onnx.export(
        traced,
        (images,),
        path,
        dynamo=False,  # the other exporter needs onnxscript
        opset_version=OPSET,
        input_names=["image"],
        output_names=["probabilities"],
        dynamic_axes={"image": sizes, "probabilities": sizes},
    )
    model = onnx.load(path)
    del model.graph.value_info[:]  # the exporter's guesses of sizes inside, those of the traced image
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _onnx_reader(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"image": images.numpy()})[0])


def _torchscript_reader(path: Path) -> Callable[[Tensor], Tensor]:
    read: Callable[[Tensor], Tensor] = torch.jit.load(path)  # type: ignore[no-untyped-call]
    return read


READERS: dict[Format, Callable[[Path], Callable[[Tensor], Tensor]]] = {
    "onnx": _onnx_reader,
    "torchscript": _torchscript_reader,
}


@torch.no_grad()
def largest_difference(student: Student, exported: Callable[[Tensor], Tensor]) -> float:
    """Largest difference of the probabilities of an exported student from the student's, over the sizes in CHECKED.

    exported: uint8 [B, 3, H, W] RGB -> float32 [B, K, H, W]
    returns:  in [0, 1]; NaN if a probability is NaN
    """
    largest = torch.zeros(())
    for size in CHECKED:
        images = _random_images(*size)
        difference = exported(images) - student.logits(images).softmax(dim=1)
        largest = torch.maximum(largest, difference.abs().max())
    return float(largest)


def _refusal(student: Student, form: Format, reason: str) -> TrainingError:
    other = "give --to torchscript, " if form == "onnx" else ""
    return TrainingError(
        f"the student {type(student.model).__name__} cannot be exported for images of any size: {reason}; no file was "
        f"written; {other}use conformalsam predict, or train another student (train.student: efficientnet-lite0)"
    )


def _random_images(batch_size: int, height: int, width: int) -> Tensor:
    """uint8 [B, 3, H, W], the same in every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch_size, 3, height, width), dtype=torch.uint8, generator=generator)


def format_exported(exported: Exported, form: Format, evaluate: EvaluateSettings) -> str:
    """What the command prints: the file, its check, how it differs from `evaluate`, and how to use it again."""
    names, path = exported.class_names, exported.path
    lines = [
        f"wrote {path}: the student of {exported.stage}, {len(names)} classes, {path.stat().st_size / 1e6:.1f} MB",
        f"its probabilities differ from torch's by at most {exported.difference:.1e}, over images of "
        f"{len(CHECKED)} sizes",
        f"input: uint8 [B, 3, H, W] RGB of any size; output: probabilities, float32 [B, {len(names)}, H, W]",
    ]
    options = [f"{name}: {value}" for name, value in _averaged(evaluate).items()]
    if options:
        lines.append(
            f"note: evaluate measured the student with {', '.join(options)}; the exported student takes each image "
            "whole, once"
        )
    if form == "onnx":
        onnx = {"model": str(path.absolute()), "output": "probabilities"}
        onnx_settings = onnx | {"class_map": {name: [channel] for channel, name in enumerate(names)}}
        lines += ["to annotate with it:", f"annotate: {yaml_text({'annotator': 'onnx', 'onnx': onnx_settings})}"]
    return "\n".join(lines)


def _averaged(evaluate: EvaluateSettings) -> dict[str, object]:
    """Settings of evaluate by which its predictions are not those of the whole image alone."""
    names = ("window", "flips", "scales")
    pairs = {name: (getattr(evaluate, name), getattr(EvaluateSettings(), name)) for name in names}
    return {f"evaluate.{name}": value for name, (value, alone) in pairs.items() if value != alone}
