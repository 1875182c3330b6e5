"""Predictions of a student for a folder of images: a palette PNG for each, whose values are class indices."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import ValidationError
from torch import Tensor
from torch.utils.data import Dataset

from pipeline import receipt
from pipeline.datasets import IGNORE_INDEX
from pipeline.errors import ConfigError, DatasetError, ImageFileError, TrainingError
from pipeline.files import IMAGE_SUFFIXES, file_digest, files_in, remove_leftovers, replacing, write_text
from pipeline.images import PHOTOGRAPH, PixelLimit, png_text, read_header, read_image
from pipeline.palette import class_colours
from pipeline.progress import Progress
from pipeline.settings import MAX_PIXELS, EvaluateSettings, Section, TrainSettings
from train.loader import loaded
from train.machine.device import compute_of
from train.measure.inference import predicted_classes, score_bands
from train.student import Student, load_student
from train.students import class_names_of

log = logging.getLogger(__name__)

S = TypeVar("S", bound=Section)

FINGERPRINT_KEY = "conformalsam"  # key of the PNG's text that holds the fingerprint of its student and options
BACKGROUND = "background"  # a class of this name is drawn in grey
MAX_NAMES = 5  # files that an error lists
MAX_WHOLE = 2**25  # pixels: of a larger image, the logits and features of a student take tens of gigabytes
LARGE_WINDOW = 1024


class Request(NamedTuple):
    """The options of a call of `predict`."""

    images: Path
    """Folder of images; those of its sub-folders are predicted too, and written to sub-folders of `out`."""
    out: Path
    """Folder that the predictions are written to."""
    student: Path
    """Folder in transformers format, as training writes it."""
    settings: EvaluateSettings
    """Window, flips and scales of the predictions."""
    device: str = "auto"
    has_probabilities: bool = False
    """Also write ID.npy, float16 [K, H, W] in [0, 1]."""
    overwrite: bool = False
    """Predict again the images whose predictions exist."""
    max_pixels: int = MAX_PIXELS
    """Largest number of pixels of an image."""


def predict(request: Request) -> int:
    """Write OUT/ID.png for every image, and OUT/classes.txt with one class name per line.

    Predictions that exist and were made by the same student with the same options are kept, so an interrupted run can
    be continued.

    returns: number of predictions written
    raises:  DatasetError for a folder without images; TrainingError for a folder without a student, for predictions of
             another student in OUT, and, after all other images are done, for images that cannot be read
    """
    files = image_files(request.images, request.out)
    student, names = open_student(request.student, request.device)
    fingerprint = fingerprint_of(request.student, request.settings)
    left = {name: path for name, path in files.items() if request.overwrite or not is_done(request, name, fingerprint)}
    remove_leftovers(request.out, below=True)
    write_text(request.out / "classes.txt", "\n".join([*names, ""]))
    log.info("predict: %s, %d classes, on %s", request.student, len(names), student.compute.device)
    progress = Progress(log, "predict", len(files), "images", done=len(files) - len(left))
    problems = _predict_all(request, student, _Palette.of(names, fingerprint), left, progress)
    if problems:
        more = [f"... and {len(problems) - MAX_NAMES} more"] if len(problems) > MAX_NAMES else []
        head = (
            f"{len(problems)} of {len(files)} images cannot be read; the predictions of the others are in "
            f"{request.out}; fix these files, and run the same command again:"
        )
        raise TrainingError("\n  ".join([head, *problems[:MAX_NAMES], *more]))
    return len(left)


def settings_of(scales: str, **options: Any) -> EvaluateSettings:
    """The settings that command line options give; ConfigError for values out of range.

    scales: numbers separated by commas
    """
    try:
        numbers = [float(number) for number in scales.split(",")]
    except ValueError:
        raise ConfigError(
            f"--scales is {scales!r}, expected numbers separated by commas; write e.g. --scales 0.75,1,1.25"
        ) from None
    return _checked(EvaluateSettings, scales=numbers, **options)


def _checked(section: type[S], **options: Any) -> S:
    try:
        return section(**options)
    except ValidationError as error:
        problem = error.errors()[0]
        text = problem["msg"].removeprefix("Value error, ")
        if problem["loc"]:  # otherwise several options contradict each other, and the text names them
            text = f"--{problem['loc'][0]}".replace("_", "-") + f": {text}, got {problem['input']}"
        raise ConfigError(text) from None


def image_files(folder: Path, out: Path) -> dict[str, Path]:
    """Images in a folder and its sub-folders, by id: the path inside the folder without the suffix.

    Hidden files and files below `out` do not count.

    raises: DatasetError for a missing folder, for a folder without images, and for two images with the same id
    """
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise DatasetError(f"{folder} {problem}, expected a folder of images; give that as FOLDER")
    if out.resolve() == folder.resolve():
        raise DatasetError(f"predictions would overwrite the images in {folder}; give another folder as OUT")
    is_inside = out.resolve().is_relative_to(folder.resolve())
    predictions = folder / out.resolve().relative_to(folder.resolve()) if is_inside else None
    files: dict[str, Path] = {}
    for path in files_in(folder, IMAGE_SUFFIXES, below=True):
        if predictions in path.parents:
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise DatasetError(f"{files[name]} and {path} would both become {name}.png; rename one of them")
        files[name] = path
    if not files:
        raise DatasetError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)}); give a folder of images as FOLDER")
    return files


def open_student(folder: Path, device: str) -> tuple[Student, list[str]]:
    """The student in a folder and the names of its classes; TrainingError for a folder without a student."""
    if not folder.is_dir():
        raise TrainingError(f"no student {folder}; give a folder such as --student results/demo/stage2/student")
    compute = compute_of(_checked(TrainSettings, device=device))
    student, names = load_student(folder, compute), class_names_of(folder)
    if len(names) > IGNORE_INDEX:
        raise TrainingError(
            f"the student in {folder} has {len(names)} classes, but a PNG holds at most {IGNORE_INDEX}; give a student "
            "with fewer classes"
        )
    return student, names


def fingerprint_of(student: Path, settings: EvaluateSettings) -> str:
    """A digest of the files of a student and of the settings of its predictions."""
    files = sorted(path for path in student.iterdir() if path.suffix in (".safetensors", ".bin", ".json"))
    digests = [[path.name, file_digest(path)] for path in files]
    return receipt.fingerprint({"files": digests, "how": settings.tracked()})


def is_done(request: Request, name: str, fingerprint: str) -> bool:
    """Whether the prediction for an image exists; TrainingError if it has another fingerprint."""
    path = request.out / f"{name}.png"
    if not path.exists():
        return False
    if png_text(path, FINGERPRINT_KEY) != fingerprint:
        raise TrainingError(
            f"{path} was not made by the student {request.student} with these options; give another folder as OUT, or "
            "add --overwrite"
        )
    return not request.has_probabilities or path.with_suffix(".npy").is_file()


def _predict_all(
    request: Request, student: Student, palette: _Palette, files: Mapping[str, Path], progress: Progress
) -> list[str]:
    """Write the predictions; returns a description of each image that cannot be read."""
    problems = []
    images = FolderImages(list(files.values()), PixelLimit(request.max_pixels, "add --max-pixels {}"))
    single = ([number] for number in range(len(files)))
    batches = loaded(images, single, images.largest(), request.settings.workers)
    for name, ((image, problem),) in zip(files, batches, strict=True):
        if image is None:
            problems.append(problem)
            log.warning("predict: %s", problem)
        else:
            _predict_one(request, student, palette, name, image)
        progress.advance()
    return problems


def _predict_one(request: Request, student: Student, palette: _Palette, name: str, image: Tensor) -> None:
    """Write the prediction for one image, uint8 [1, 3, H, W] RGB."""
    target = request.out / f"{name}.png"
    settings = settings_for(image, request.settings)
    try:
        if request.has_probabilities:
            with replacing(target.with_suffix(".npy")) as temporary:
                classes = _write_probabilities(temporary, student, image, settings)
        else:
            classes = predicted_classes(student, image, settings)[0].cpu().numpy()
    except torch.OutOfMemoryError:
        height, width = image.shape[-2:]
        raise TrainingError(
            f"there is not enough memory for the image {name} of {height} x {width} pixels; add e.g. --window 512"
        ) from None
    picture = Image.fromarray(classes, "P")
    with replacing(target) as temporary, temporary.open("wb") as file:  # last, so that a PNG means a finished image
        palette.save(picture, file)


def settings_for(image: Tensor, settings: EvaluateSettings) -> EvaluateSettings:
    """The settings for one image [..., H, W]: above `MAX_WHOLE` pixels, a sliding window unless one is given."""
    height, width = image.shape[-2:]
    if settings.window is not None or height * width <= MAX_WHOLE:
        return settings
    return settings.model_copy(update={"window": LARGE_WINDOW})


def _write_probabilities(
    path: Path, student: Student, image: Tensor, settings: EvaluateSettings
) -> npt.NDArray[np.uint8]:
    """Write probabilities, float16 [K, H, W], band by band; returns the most probable classes, uint8 [H, W]."""
    file, classes, top = None, [], 0
    for scores in score_bands(student, image, settings):
        classes.append(scores[0].argmax(dim=0).to(torch.uint8).cpu().numpy())
        if file is None:
            shape = (scores.shape[1], *image.shape[-2:])
            file = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        file[:, top : top + scores.shape[2]] = scores[0].half().cpu().numpy()
        top += scores.shape[2]
    assert file is not None
    file.flush()
    return np.concatenate(classes)


class _Palette(NamedTuple):
    """The colours and the text of every PNG."""

    colours: list[int]
    text: PngInfo

    @classmethod
    def of(cls, names: Sequence[str], fingerprint: str) -> _Palette:
        text = PngInfo()
        text.add_text(FINGERPRINT_KEY, fingerprint)
        background = names.index(BACKGROUND) if BACKGROUND in names else None
        return cls(class_colours(len(names), background).ravel().tolist(), text)

    def save(self, image: Image.Image, file: BinaryIO) -> None:
        image.putpalette(self.colours)
        image.save(file, "png", bits=8, pnginfo=self.text)  # always 8 bits, because many readers of masks expect them


@dataclass(frozen=True)
class FolderImages(Dataset[tuple[Tensor | None, str]]):
    """Images at their own size."""

    paths: Sequence[Path]
    limit: PixelLimit

    def __len__(self) -> int:
        return len(self.paths)

    def largest(self) -> int:
        """Bytes of the largest image, by the headers of the files; those that cannot be read are left out."""
        sizes = [0]
        for path in self.paths:
            with contextlib.suppress(ImageFileError):
                sizes.append(3 * math.prod(read_header(path, PHOTOGRAPH).size))
        return max(sizes)

    def __getitem__(self, number: int) -> tuple[Tensor | None, str]:
        """An image, uint8 [1, 3, H, W] RGB, and an empty text; or None and why the file cannot be read."""
        try:
            image = read_image(self.paths[number], self.limit)
        except ImageFileError as error:
            return None, str(error)
        return torch.from_numpy(image.transpose(2, 0, 1)[None].copy()), ""
