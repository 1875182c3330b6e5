"""A correct run with 6 labeled, 4 unlabeled and 2 val images, which tests damage, and its findings."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_run import UNTRAINED

from pipeline.datasets import Sample
from pipeline.doctor import Finding, examine
from pipeline.sources import find_samples

IDS = [f"im{i:02d}" for i in range(12)]


@pytest.fixture
def data(tmp_path: Path, write_images: Callable[..., None]) -> Path:
    write_images(tmp_path / "data", IDS)
    return tmp_path / "data"


@pytest.fixture
def labeled(data: Path, make_settings: Callable[..., Any]) -> list[Sample]:
    """The labeled samples."""
    return [sample for sample in find_samples(make_settings().data)[0] if sample.split == "labeled"]


@pytest.fixture
def findings(make_settings: Callable[..., Any]) -> Callable[..., list[Finding]]:
    """Every finding of the run with these settings changed."""

    def examined(quick: int | None = None, timed: bool = False, **overrides: Any) -> list[Finding]:
        return examine(make_settings(**UNTRAINED | overrides), quick, timed)

    return examined


@pytest.fixture
def only(findings: Callable[..., list[Finding]]) -> Callable[..., Finding]:
    """The one finding whose line has the text, of the run with these settings changed."""

    def the_one(text: str, **overrides: Any) -> Finding:
        return finding_with(text, findings(**overrides))

    return the_one


def finding_with(text: str, found: Sequence[Finding]) -> Finding:
    matching = [finding for finding in found if text in str(finding)]
    assert len(matching) == 1, "\n".join(map(str, found))
    return matching[0]
