"""The masks of a new run: index masks of the user, or those that annotations of other tools are converted to."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.datasets import IGNORE_INDEX
from pipeline.errors import DatasetError
from pipeline.files import IMAGE_SUFFIXES, MASK_SUFFIXES, files_in
from pipeline.init.classes import BACKGROUND_NAMES, NO_BACKGROUND, ListedClass, read_class_list
from pipeline.init.folders import images_by_id, listed
from pipeline.init.settings import Choices
from pipeline.sources.annotations import READERS, Annotations, Conversion, colour_masks, convert, detect, unpacked
from pipeline.sources.annotations.annotated import refuse_lost
from pipeline.sources.annotations.pictures import are_coloured, called_as_images

CONVERTED = "converted"  # folder beside the image folder, with the index masks of each run
MIN_MASKS = 2  # one to train on, one to evaluate on
MASK_ENDING = "data.mask_ending"
FEW = 0.02  # fraction of pixels outside all outlines below which they are probably gaps between outlines


class Masks(NamedTuple):
    """The index masks of a run.

    choices: those of the user, with the folder of the index masks
    listed:  classes with their mask values; None if they follow from the values
    remarks: lines of text about a conversion: what was left out or decided
    """

    choices: Choices
    listed: list[ListedClass] | None
    remarks: list[str]


def are_annotations(choices: Choices) -> bool:
    """Whether `--masks` has annotations of a tool, rather than index masks."""
    if choices.masks.is_file():
        return True
    if not choices.masks.is_dir():
        return False
    has_pictures = _is_apart(choices) and files_in(choices.masks, MASK_SUFFIXES, choices.below)
    if has_pictures and not colour_masks.are_here(choices.masks, choices.below):
        return choices.colours is not None
    return has_colours(choices, choices.masks) or detect(choices.masks) is not None


def has_colours(choices: Choices, source: Path) -> bool:
    """Whether the masks are pictures in colours, or JPEGs.

    source: `--masks`, or the folder that it was unpacked into
    """
    return choices.colours is not None or (_is_apart(choices) and are_coloured(source, choices.below))


def _is_apart(choices: Choices) -> bool:
    """Whether the masks are in another folder than the images."""
    return choices.masks.resolve() != choices.images.resolve()


def converted_folder(images: Path, name: str) -> Path:
    """The folder of a run's converted masks."""
    return images.parent / CONVERTED / name


@contextlib.contextmanager
def masks_of(choices: Choices, name: str) -> Iterator[Masks]:
    """The index masks of a run: those of the folder `--masks`, or those that its annotations are converted to.

    After an error, the converted masks are removed.

    raises: DatasetError for annotations that cannot be read, or that annotate no image
    """
    if not are_annotations(choices):
        classes = read_class_list(choices.class_list) if choices.class_list is not None else None
        yield Masks(choices, classes, [])
        return
    folder = converted_folder(choices.images, name)
    folder.mkdir(parents=True)
    try:
        yield _converted(choices, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # of other runs
            folder.parent.rmdir()
        raise


def _converted(choices: Choices, folder: Path) -> Masks:
    images, sizes = images_by_id(choices.images, choices.masks, choices.below)
    with unpacked(choices.masks, int(sizes.prod(axis=1).sum())) as source:
        annotations = read(source, choices, images)
        if choices.background != NO_BACKGROUND:
            refuse_lost(annotations, choices.masks, "; or add --background none, which makes all of these pixels void")
        done = convert(annotations, images, folder, choices.unannotated)
        is_coloured = has_colours(choices, source)
    remarks = [
        remark.replace(str(source), str(choices.masks))
        for remark in _remarks(choices, annotations, done, is_coloured=is_coloured)
    ]
    if done.num_masks < MIN_MASKS:
        raise DatasetError("\n  ".join([_too_few(choices, annotations, done), *remarks]))
    classes = named_classes(annotations.names, done, choices)
    others = {name: value for name, value in choices.overrides.items() if name != MASK_ENDING}
    return Masks(choices._replace(masks=folder, overrides=others), classes, remarks)


def read(source: Path, choices: Choices, images: Mapping[str, Path]) -> Annotations:
    """The annotations in a file or folder; DatasetError if no reader reads them."""
    if has_colours(choices, source):
        masks = colour_masks.read(source, choices.colours, choices.below, choices.max_pixels)
        return called_as_images(masks, images, choices.overrides.get(MASK_ENDING))
    name = detect(source)
    if name is None:
        raise DatasetError(
            f"--masks {choices.masks} has no annotations of a format that is read ({', '.join(READERS)}), and is no "
            "folder of index masks; export the annotations in one of these formats"
        )
    return READERS[name].read(source, choices.max_pixels)


def _too_few(choices: Choices, annotations: Annotations, done: Conversion) -> str:
    if done.num_masks:
        return (
            f"{choices.masks} has outlines in {done.num_masks} image of {choices.images}, but a run needs at least "
            f"{MIN_MASKS} masks, one to train on and one to evaluate on; annotate more images"
        )
    if done.without_image:
        suffixes = ", ".join(IMAGE_SUFFIXES)
        return (
            f"{choices.masks} annotates {len(done.without_image)} images, e.g. {done.without_image[0]}, but "
            f"{choices.images} has none of them ({suffixes}); give the folder of these images, or name the images as "
            "the annotations do"
        )
    return (
        f"{choices.masks} lists {len(annotations.images)} images, but has no outline in any of them; draw outlines "
        "(boxes are not enough) and export them again"
    )


def named_classes(names: Sequence[str], done: Conversion, choices: Choices) -> list[ListedClass]:
    """The labels as classes. Pixels in no outline, value 0, are background.

    They are void with the background `none`, and where a label called background is drawn.
    """
    labels = {name: value for value, name in enumerate(names, start=1)}
    classes = [ListedClass(name, [], [value]) for name, value in labels.items()]
    if choices.class_list is not None:
        of_background = dict.fromkeys([*BACKGROUND_NAMES, *([choices.background] if choices.background else [])], 0)
        classes = read_class_list(choices.class_list, of_background | labels)
    own = next((c for c in classes if c.name.lower() in BACKGROUND_NAMES), None)
    is_drawn = own is not None and any(value in done.num_pixels for value in own.values if value)
    if choices.background == NO_BACKGROUND or (choices.background is None and is_drawn):
        return [*classes, ListedClass("void", [], [0])]
    name = choices.background or (own.name if own is not None else "background")
    if name in (c.name for c in classes):
        return [c._replace(values=sorted({0, *c.values})) if c.name == name else c for c in classes]
    return [ListedClass(name, [], [0]), *classes] if 0 in done.num_pixels else classes


def _remarks(choices: Choices, annotations: Annotations, done: Conversion, *, is_coloured: bool) -> Iterator[str]:
    yield from annotations.remarks
    if done.unannotated:
        yield (
            f"nothing is drawn in {len(done.unannotated)} listed images, so they are unlabeled: "
            f"{listed(done.unannotated)}; if they show only background, add --unannotated background"
        )
    if done.without_image:
        yield f"annotated images that are not in {choices.images}, not used: {listed(done.without_image)}"
    if done.num_covered:
        percent = 100 * done.num_covered / done.num_all
        yield (
            f"{done.num_covered} pixels ({percent:.2f} %) are in outlines of several labels: they belong to the "
            "smallest one"
        )
    void = done.fraction(IGNORE_INDEX)
    if void:
        why = "between two colours of a JPEG" if is_coloured else "in boxes without an outline"
        yield f"{100 * void:.1f} % of the pixels are void: {why}"
    outside = done.fraction(0)
    if outside:
        hint = "; if they are gaps between outlines, add --background none, which makes them void"
        meaning = "void" if choices.background == NO_BACKGROUND else f"{choices.background or 'background'}"
        yield f"{100 * outside:.1f} % of the pixels are in no outline: {meaning}{hint if outside < FEW else ''}"
