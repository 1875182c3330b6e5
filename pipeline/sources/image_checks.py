"""Checks of images, and of masks against their images, that `prepare` and `doctor` share.

A problem would make results wrong. A doubt needs a person's look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pipeline.datasets import Sample
from pipeline.errors import DatasetError
from pipeline.images import ON_ITS_SIDE, UPRIGHT, Header

NEARLY_BLACK = 64  # of 255; the brightest pixel of images with 14 bits stored in 16
NUM_SHOWN = 3


class Doubt(NamedTuple):
    """Something that a person should look at.

    what:  a sentence without its full stop
    where: all affected files
    fix:   what to do
    """

    what: str
    where: tuple[str, ...]
    fix: str

    def __str__(self) -> str:
        return f"{self.what}: {shortened(self.where)}; {self.fix}"


def shortened(names: Sequence[str]) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else ""
    return ", ".join(names[:NUM_SHOWN]) + more


def counted(noun: str, files: Sequence[str], claim: str) -> str:
    """The number of files, and a claim about them."""
    return f"{len(files)} {noun}{'' if len(files) == 1 else 's'} {claim}"


def refuse_other_size(mask: str, size: tuple[int, int], image: Header) -> None:
    """DatasetError if a mask has another size than its upright image. size: height and width of the mask"""
    if size == image.size:
        return
    sizes = f"{mask} is {size[0]} x {size[1]} (height x width), its image is {image.size[0]} x {image.size[1]}"
    if image.orientation in ON_ITS_SIDE and size == image.size[::-1]:
        raise DatasetError(
            f"{sizes}: it fits the image as it is stored, but the image is read upright by its EXIF orientation "
            f"{image.orientation}; turn the mask as the image, or remove the orientation from the image, e.g. with "
            "exiftool -Orientation= FILE"
        )
    raise DatasetError(f"{sizes}; resize the mask by nearest neighbour, without smoothing")


def darkness_problems(brightest: Mapping[str, int]) -> list[str]:
    """A message if images of 16 bits use so few of them that they would be read as nearly black.

    brightest: file -> its largest value as it is read, 0 to 255, of every image with 16 bits
    """
    largest = max(brightest.values(), default=255)
    if largest >= NEARLY_BLACK:
        return []
    factor = 1 << (8 - largest.bit_length())
    files = list(brightest)
    return [
        f"{counted('image', files, 'with 16 bits')} per channel have no value above {256 * largest + 255} of 65535, so "
        f"they would be read as nearly black: {shortened(files)}; multiply their values by {factor}, e.g. with "
        f"mogrify -evaluate multiply {factor} FILES"
    ]


def orientation_doubts(pairs: Iterable[tuple[str, Header]]) -> list[Doubt]:
    """Images with masks whose EXIF orientation the size of the mask does not confirm: turned by 180°, mirrored, square.

    pairs: file and header of every image that has a mask
    """
    files = tuple(
        name
        for name, header in pairs
        if header.orientation != UPRIGHT and (header.orientation not in ON_ITS_SIDE or header.size[0] == header.size[1])
    )
    what = "stored turned or mirrored, and read upright by their EXIF orientation"
    fix = "check that their masks fit the upright images, as viewers show them"
    return [Doubt(counted("image", files, what), files, fix)] if files else []


def leak_doubts(samples: Iterable[Sample]) -> list[Doubt]:
    """Val images whose files are equal to those of training images, by their digests."""
    samples = list(samples)
    training = {sample.image_digest: sample.id for sample in samples if sample.split != "val"}
    pairs = tuple(
        f"{training[sample.image_digest]} = {sample.id}"
        for sample in samples
        if sample.split == "val" and sample.image_digest in training
    )
    what = "equal to a training image, so the student is evaluated on images that it was trained on"
    return [Doubt(counted("val image", pairs, what), pairs, "remove one of each pair")] if pairs else []
