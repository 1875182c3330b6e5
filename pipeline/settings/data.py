"""`data`: images, masks, classes and splits of the data set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pipeline.settings.section import Section, runtime
from pipeline.settings.values import Size, VisibleText, did_you_mean, refuse_duplicates

MAX_CLASSES = 255  # masks are uint8, and 255 is no class
MAX_MASK_VALUE = 65535  # 16 bits
MAX_PIXELS = 200_000_000  # the largest photographs of common cameras

MaskValue = Annotated[int, Field(ge=0, le=MAX_MASK_VALUE)]


class ClassSettings(Section):
    """One class of the data set."""

    name: VisibleText
    """Name of the class in tables and stores."""
    prompts: list[VisibleText] = []
    """Text prompts for the annotator. Several prompts are aliases of the class. Default: the name."""
    values: list[MaskValue] = []
    """Mask values that mean this class. Default: the index of the class in the list."""


def _class_from_name(entry: Any) -> Any:
    if isinstance(entry, str):
        return {"name": entry}
    if isinstance(entry, Mapping | ClassSettings):
        return entry
    raise PydanticCustomError("string_type", "Input should be a name or a mapping")


class SplitSettings(Section):
    """Lists of images. A list is a text file; its path and the paths in it are relative to `data.root`.

    A line of a list holds an image id (the file name without its ending), the path of an image, or the paths of an
    image and its mask. `None` in place of the mask marks an unlabeled image. In every layout but `folder`, a mask that
    the line does not name, or that does not exist, is looked up in the layout's mask folder.
    """

    train: str | None = None
    """Images from which the labeled and the unlabeled ones are taken. Default: the layout's training
    images, else all images that are not in `val`."""
    labeled: str | None = None
    """Images whose masks are used. Default: `num_labeled` images of `train`, drawn with `seed`."""
    unlabeled: str | None = None
    """Images whose masks, if there are any, are used for neither calibration nor training. Default: the rest of
    `train`."""
    partial: bool = runtime(False)
    """Allow training images that are neither in `labeled` nor in `unlabeled`. By default they are an error, because two
    lists of different splits would drop images silently. Set it to use a part of the data set on purpose."""
    val: str | None = None
    """Images on which the student is evaluated. Default: the layout's val images, else `num_val` images with masks,
    drawn with `seed`."""
    num_labeled: int | None = Field(None, ge=1)
    """Number of labeled images to draw, if there is no list `labeled`. Default: all images with masks."""
    num_val: int | None = Field(None, ge=1)
    """Number of val images to draw, if there is no list `val`. Default: the layout's val images, else
    a fifth of the images with masks. With `data.groups`, whole groups are drawn, until there are at least so many, and
    no other image of these groups is used."""
    seed: int = 0
    """Seed of the draws of labeled and val images."""


class SceneSettings(Section):
    """Procedural scenes of the embedded demo. `prepare` draws them into `data.root` before it reads the data set."""

    domain: Literal["source", "target"] = "target"
    """Look of the scenes. source: clear water, on which the demo's annotator was trained. target: murky water."""
    num_train: int = Field(ge=1)
    """Number of training scenes."""
    num_val: int = Field(ge=1)
    """Number of val scenes."""
    seed: int = 0
    """Seed of the scenes."""


class TileSettings(Section):
    """Tiles of large images. Each is a sample of its own: annotated, calibrated, labeled and trained on."""

    size: int = Field(1024, ge=16)
    """Height and width of a tile in pixels. Larger images are cut into tiles, which are resized to `data.grid` as whole
    images are; with the size of the grid, nothing is scaled."""
    overlap: int | None = Field(None, ge=0)
    """Number of pixels that neighbouring tiles have in common, at least. A tile answers for the pixels up to the middle
    of the overlap; the rest is context, for the annotator and the student. Default: an eighth of `size`."""

    @model_validator(mode="after")
    def _tiles_move_on(self) -> TileSettings:
        if self.overlap is not None and self.overlap >= self.size:
            raise ValueError(
                f"overlap is {self.overlap}, but tiles have {self.size} pixels; set overlap to less than size, or "
                "remove it"
            )
        return self

    @property
    def overlap_pixels(self) -> int:
        """`overlap`, or its default."""
        return self.size // 8 if self.overlap is None else self.overlap

    def are_of(self, size: Sequence[int]) -> bool:
        """Whether an image of this height and width is cut."""
        return max(size) > self.size


def _tiles_from_size(value: Any) -> Any:
    return {"size": value} if isinstance(value, int) and not isinstance(value, bool) else value


class DataSettings(Section):
    """Images, masks, classes and splits of the data set."""

    root: str = "data"
    """Folder of the data set. The paths of this section, `annotate.onnx.model` and `annotate.transformers.model` are
    relative to it."""
    layout: Literal["folder", "voc", "ade20k", "cityscapes", "coco"] = "folder"
    """Folder structure of the data set. folder: images/ and masks/, matched by file name without ending. voc:
    JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/. ade20k: images/ and annotations/, each with training/
    and validation/. cityscapes: leftImg8bit/ and gtFine/, with one folder per city. coco: train2017/, val2017/, and
    masks/ as `conformalsam convert-coco` writes it. Details: docs/data.md."""
    images: str | None = None
    """Folder of the images. Default: the layout's."""
    masks: str | None = None
    """Folder of the masks. Default: the layout's."""
    subfolders: bool = False
    """Whether images in sub-folders of the image folder are read too, in the layouts `folder` and `voc`. Ids are the
    stems of the files or, if two are equal, the paths below the image folder with `__` between folders. The mask of an
    image is in the same sub-folder of the mask folder, or in the mask folder itself under the id of the image. By
    default, `prepare` warns of such images."""
    mask_ending: str | None = None
    """What follows the image's id in the file name of its mask, e.g. `_gtFine_labelTrainIds.png`. Default: the
    layout's."""
    classes: list[Annotated[ClassSettings, BeforeValidator(_class_from_name)]] = Field(
        min_length=2, max_length=MAX_CLASSES
    )
    """Classes in the order of their indices: names, or mappings with a name, prompts and mask values."""
    background: str | None = None
    """Name of the background class, if there is one. Under rule paper, a foreground class in the prediction set takes
    precedence over it (paper Eq. 4)."""
    ignore_values: list[MaskValue] = [255]
    """Mask values of void pixels, which are excluded from calibration, training and evaluation. Negative values, which
    only signed formats have, are always void."""
    unknown_values: Literal["error", "ignore"] = "error"
    """What to do with mask values that neither `classes` nor `ignore_values` lists. error: `prepare` stops. ignore: the
    pixels are void."""
    splits: SplitSettings = SplitSettings()
    groups: str | None = None
    """Group of each image, for images that are not independent, such as frames of one video: a regular expression that
    finds it in the id (its first capture group, else the whole match), or a CSV file (.csv or .tsv) with the columns id
    and group. Images of a group are never divided between folds, and intervals and guarantees count groups. Default:
    each image is its own group. Details: docs/data.md."""
    grid: Size = [512, 512]
    """Height and width in pixels to which every image is resized for the annotator, the thresholds and the
    pseudo-labels. The aspect ratio is not kept."""
    tile: Annotated[TileSettings | None, BeforeValidator(_tiles_from_size)] = None
    scenes: SceneSettings | None = None
    max_pixels: int = runtime(MAX_PIXELS, ge=1)
    """Largest number of pixels of an image or a mask; a larger file is refused before it is decoded. With `data.tile`,
    a TIFF may be larger: its rows are decoded in bands. An image takes 3 bytes per pixel in memory while it is read,
    and every thread and worker reads one."""
    workers: int | None = runtime(None, ge=1)
    """Number of threads that check the images. Default: one per core."""

    @model_validator(mode="after")
    def _classes_are_distinct(self) -> DataSettings:
        refuse_duplicates([c.name for c in self.classes], "classes", "class name")
        refuse_duplicates([v for values in self.mask_values for v in values], "classes", "mask value")
        doubtful = {v for values in self.mask_values for v in values} & set(self.ignore_values)
        if doubtful:
            raise ValueError(
                f"ignore_values has {sorted(doubtful)}, which classes have as well; remove them from one of the two"
            )
        if self.background is not None and self.background not in self.class_names:
            hint = did_you_mean(self.background, self.class_names) or "; set it to one of their names, or remove it"
            raise ValueError(f"background is {self.background!r}, which is not among the classes{hint}")
        return self

    @field_validator("groups")
    @classmethod
    def _groups_can_be_found(cls, groups: str | None) -> str | None:
        if groups is not None and not is_group_list(groups):
            try:
                re.compile(groups)
            except re.error as error:
                raise ValueError(
                    f"groups {groups!r} is no regular expression ({error}) and no CSV file (its name would end in .csv "
                    "or .tsv); correct it"
                ) from None
        return groups

    @property
    def num_classes(self) -> int:
        """Number of classes, the background included."""
        return len(self.classes)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their indices."""
        return [c.name for c in self.classes]

    @property
    def class_prompts(self) -> list[list[str]]:
        """Prompts of each class, in the order of the classes."""
        return [c.prompts or [c.name] for c in self.classes]

    @property
    def mask_values(self) -> list[list[int]]:
        """Mask values of each class, in the order of the classes."""
        return [c.values or [index] for index, c in enumerate(self.classes)]

    @property
    def background_index(self) -> int | None:
        """Class index of the background, None if there is none."""
        return None if self.background is None else self.class_names.index(self.background)


def is_group_list(groups: str) -> bool:
    """Whether `data.groups` is the name of a CSV file instead of a regular expression."""
    return groups.lower().endswith((".csv", ".tsv"))
