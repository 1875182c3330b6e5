"""Finds the images that users and programs name: by id, by path, or by stem."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from pipeline.errors import DatasetError
from pipeline.files import IMAGE_SUFFIXES, normal

BETWEEN_FOLDERS = "__"  # in ids, where two images in different sub-folders have the same stem
MAX_SHOWN = 3


class ImageIds:
    """The ids of the images of a run. An id may contain the folders of its image: `cam1__0001` for `cam1/0001.jpg`."""

    def __init__(self, ids: Iterable[str]):
        self._parts = {sample_id: _parts(sample_id) for sample_id in ids}
        self._of_stem: dict[str, list[str]] = {}
        for sample_id, parts in self._parts.items():
            self._of_stem.setdefault(parts[-1], []).append(sample_id)

    def named(self, name: str) -> list[str]:
        """Ids of the images that a name may mean.

        A name is an id, a path, or the end of one, with or without the suffix of an image. Its folders may be
        separated as in Windows.
        """
        text = normal(name)
        if text in self._parts:
            return [text]
        path = PurePosixPath(text.replace("\\", "/"))
        text = str(path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path)
        if text in self._parts:
            return [text]
        parts = _parts(text)
        return [one for one in self._of_stem.get(parts[-1], ()) if _end_alike(self._parts[one], parts)]

    def resolve(self, name: str) -> str:
        """The id of the image that a name means; the name itself if no image has it.

        raises: DatasetError if several images have it
        """
        found = self.named(name)
        if len(found) > 1:
            more = ", ..." if len(found) > MAX_SHOWN else ""
            raise DatasetError(
                f"{name} may be each of {', '.join(found[:MAX_SHOWN])}{more}; write the id of the right one, or its "
                f"path, e.g. {'/'.join(self._parts[found[0]])}"
            )
        return found[0] if found else normal(name)


def _parts(name: str) -> list[str]:
    return name.replace("/", BETWEEN_FOLDERS).split(BETWEEN_FOLDERS)


def _end_alike(one: list[str], other: list[str]) -> bool:
    """Whether the shorter one is the end of the longer one."""
    length = min(len(one), len(other))
    return one[-length:] == other[-length:]
