"""Parts of a run's images whose maps are made by jobs of their own: their names, receipts and marks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from pipeline.dependencies import is_stale, receipts_before
from pipeline.errors import ConfigError
from pipeline.marks import update_mark
from pipeline.receipt import read_receipt
from pipeline.run import Run

T = TypeVar("T")

SHARD = "annotate-shard"
"""The stage in the receipt of a part. `annotate` removes these receipts when it has gathered the maps."""


class Shard(NamedTuple):
    """Every `of`-th image, beginning with the `number`-th; number: 1..of"""

    number: int
    of: int

    @property
    def name(self) -> str:
        """As `--shard` takes it: 2_of_4."""
        return f"{self.number}_of_{self.of}"

    def part(self, images: Sequence[T]) -> Sequence[T]:
        return images[self.number - 1 :: self.of]


def shards(number: int) -> list[Shard]:
    """All parts, if the images are divided into so many."""
    return [Shard(i + 1, number) for i in range(number)]


def parse_shard(text: str) -> Shard:
    """The shard of a name; ConfigError for any other text."""
    found = re.fullmatch(r"([1-9][0-9]*)_of_([1-9][0-9]*)", text)
    if found is None or int(found[1]) > int(found[2]):
        raise ConfigError(f"--shard {text} is no part of the images; write --shard 2_of_4 for the second of four")
    return Shard(int(found[1]), int(found[2]))


def update_shard_marks(run: Run, parts: Iterable[Shard]) -> None:
    """Create or remove the mark of each part, after `update_marks` has done so for stages; OSError."""
    for part in parts:
        receipt = run.folder.shard(part.name)
        update_mark(receipt, SHARD, receipts_before(run.settings, "annotate"), partial(_is_current, run, receipt))


def _is_current(run: Run, receipt: Path) -> bool:
    """Whether a part has been annotated with these settings, and is one of the images that samples.json lists now."""
    if not receipt.is_file() or is_stale(receipt, SHARD, run.tracked("annotate")):
        return False
    return read_receipt(receipt, SHARD).get("sources") == run.sources("annotate")
