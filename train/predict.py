"""The student on any folder of images: a palette PNG for each, whose values are class indices."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import ValidationError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.datasets import IGNORE_INDEX, read_image
from pipeline.errors import ConfigError, DatasetError, TrainingError
from pipeline.files import IMAGE_SUFFIXES, file_digest, replacing, write_text
from pipeline.palette import class_colours
from pipeline.progress import Progress
from pipeline.receipt import fingerprint
from pipeline.settings import EvaluateSettings, Section, TrainSettings
from train.machine.device import compute_of
from train.measure.inference import class_names_of, class_scores, predicted_classes
from train.student import Student, load_student

log = logging.getLogger(__name__)

S = TypeVar("S", bound=Section)

MAKER = "conformalsam"  # key of the PNG's text that tells which student made it, and how
BACKGROUND = "background"  # a class of this name is grey
NUM_NAMED = 5  # files that an error names


class Request(NamedTuple):
    """What is wanted of which student."""

    images: Path
    """Folder; images in its sub-folders count, and are written to sub-folders."""
    out: Path
    student: Path
    """Folder in transformers format, as training writes it."""
    how: EvaluateSettings
    """How the student looks at an image."""
    device: str = "auto"
    has_probabilities: bool = False
    """Also write ID.npy, float16 [K, H, W]."""
    overwrite: bool = False
    """Also redo what is there."""


def predict(request: Request) -> int:
    """Write OUT/ID.png for every image, and OUT/classes.txt, a name a line; returns how many were made this time.

    What the same student has made in the same way is left as it is, so that an interrupted run goes on.

    raises: DatasetError for a folder without images; TrainingError for a folder that is no checkpoint, for predictions
            of another student in OUT, and, after all others are done, for images that cannot be read
    """
    files = image_files(request.images, request.out)
    student, names = open_student(request.student, request.device)
    maker = maker_of(request.student, request.how)
    left = {name: path for name, path in files.items() if request.overwrite or not is_made(request, name, maker)}
    write_text(request.out / "classes.txt", "\n".join([*names, ""]))
    log.info("predict: %s, %d classes, on %s", request.student, len(names), student.compute.device)
    progress = Progress(log, "predict", len(files), "images", done=len(files) - len(left))
    problems = _predict_all(request, student, _Palette.of(names, maker), left, progress)
    if problems:
        shown = "; ".join(problems[:NUM_NAMED]) + ("; …" if len(problems) > NUM_NAMED else "")
        raise TrainingError(
            f"{len(problems)} of {len(files)} images cannot be read: {shown}. The predictions of the others are in "
            f"{request.out}; repair or remove these files and run it again"
        )
    return len(left)


def settings_of(scales: str, **options: Any) -> EvaluateSettings:
    """Settings that the options ask for; ConfigError for values out of range. `scales`: numbers with commas between."""
    try:
        numbers = [float(number) for number in scales.split(",")]
    except ValueError:
        raise ConfigError(f"--scales is {scales!r}, expected numbers with commas between, e.g. 0.75,1,1.25") from None
    return _checked(EvaluateSettings, scales=numbers, **options)


def _checked(section: type[S], **options: Any) -> S:
    try:
        return section(**options)
    except ValidationError as error:
        problem = error.errors()[0]
        text = problem["msg"].removeprefix("Value error, ")
        if problem["loc"]:  # else several options are at odds, and the text names them
            text = f"--{problem['loc'][0]}".replace("_", "-") + f": {text}, got {problem['input']}"
        raise ConfigError(text) from None


def image_files(folder: Path, out: Path) -> dict[str, Path]:
    """Images below a folder by id: their path in it without the suffix. Hidden files and those below `out` are none.

    raises: DatasetError for a missing folder, for none in it, and for two of one id
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is {'a file' if folder.exists() else 'not there'}; expected a folder of images")
    if out.resolve() == folder.resolve():
        raise DatasetError(f"predictions would overwrite the images in {folder}; choose another folder for them")
    is_inside = out.resolve().is_relative_to(folder.resolve())
    predictions = folder / out.resolve().relative_to(folder.resolve()) if is_inside else None
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith(".") or predictions in path.parents:
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise DatasetError(f"{files[name]} and {path} would both become {name}.png; rename one of them")
        files[name] = path
    if not files:
        raise DatasetError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return files


def open_student(folder: Path, device: str) -> tuple[Student, list[str]]:
    """A student and the names of its classes; TrainingError for a folder without one."""
    if not folder.is_dir():
        raise TrainingError(f"no student {folder}; give a folder such as results/demo/stage2/student")
    compute = compute_of(_checked(TrainSettings, device=device))
    student, names = load_student(folder, compute), class_names_of(folder)
    if len(names) > IGNORE_INDEX:
        raise TrainingError(f"the student in {folder} has {len(names)} classes, more than {IGNORE_INDEX} fit in a PNG")
    return student, names


def maker_of(student: Path, how: EvaluateSettings) -> str:
    """Digits that change with the student's weights and with how it looks at images."""
    files = sorted(path for path in student.iterdir() if path.suffix in (".safetensors", ".bin", ".json"))
    return fingerprint({"files": [[path.name, file_digest(path)] for path in files], "how": how.tracked()})


def is_made(request: Request, name: str, maker: str) -> bool:
    """Whether the prediction is there; TrainingError if it is of another maker."""
    path = request.out / f"{name}.png"
    if not path.exists():
        return False
    if _maker_in(path) != maker:
        raise TrainingError(
            f"{path} was not made by the student {request.student} with these options; give another folder, or "
            "--overwrite"
        )
    return not request.has_probabilities or path.with_suffix(".npy").is_file()


def _maker_in(path: Path) -> str | None:
    try:
        with Image.open(path) as image:
            found: str | None = image.info.get(MAKER)
    except OSError:
        return None
    return found


def _predict_all(
    request: Request, student: Student, palette: _Palette, files: Mapping[str, Path], progress: Progress
) -> list[str]:
    """Write the predictions; returns what is wrong with the images that cannot be read."""
    problems = []
    loader: Any = DataLoader(
        FolderImages(list(files.values())), batch_size=None, num_workers=request.how.workers, collate_fn=_as_it_is
    )
    for (name, path), (image, problem) in zip(files.items(), loader, strict=True):
        if image is None:
            problems.append(f"{path} ({problem})")
            log.warning("predict: %s cannot be read: %s", path, problem)
        else:
            _predict_one(request, student, palette, name, image)
        progress.advance()
    return problems


def _predict_one(request: Request, student: Student, palette: _Palette, name: str, image: Tensor) -> None:
    """image: uint8 [1, 3, H, W]"""
    target = request.out / f"{name}.png"
    try:
        if request.has_probabilities:
            scores = class_scores(student, image, request.how)
            classes = scores.argmax(dim=1)
            array = scores[0].half().cpu().numpy()
            with replacing(target.with_suffix(".npy")) as part, part.open("wb") as file:
                np.save(file, array)
        else:
            classes = predicted_classes(student, image, request.how)
    except torch.OutOfMemoryError:
        height, width = image.shape[-2:]
        raise TrainingError(
            f"the image {name} of {height} x {width} pixels needs more memory than there is; give --window, e.g. 512"
        ) from None
    drawn = Image.fromarray(classes[0].to(torch.uint8).cpu().numpy(), "P")
    with replacing(target) as part, part.open("wb") as file:  # last: a PNG that is there is complete
        palette.save(drawn, file)


class _Palette(NamedTuple):
    """What every PNG has beside its pixels."""

    colours: list[int]
    text: PngInfo

    @classmethod
    def of(cls, names: Sequence[str], maker: str) -> _Palette:
        text = PngInfo()
        text.add_text(MAKER, maker)
        background = names.index(BACKGROUND) if BACKGROUND in names else None
        return cls(class_colours(len(names), background).ravel().tolist(), text)

    def save(self, image: Image.Image, file: BinaryIO) -> None:
        image.putpalette(self.colours)
        image.save(file, "png", bits=8, pnginfo=self.text)  # 8, however few the classes: as others read masks


@dataclass(frozen=True)
class FolderImages(Dataset[tuple[Tensor | None, str]]):
    """Images at their own size."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> tuple[Tensor | None, str]:
        """uint8 [1, 3, H, W] RGB and nothing, or None and what is wrong with the file."""
        try:
            image = read_image(self.paths[place])
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all that Pillow raises
            return None, str(error)
        return torch.from_numpy(image.transpose(2, 0, 1)[None].copy()), ""


def _as_it_is(item: Any) -> Any:
    return item
