"""Tiny SEEM networks for several tests."""

import pytest
from tiny_seem import UNTOLD, write_checkpoint

from pipeline.seem import Seem


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory):
    """Path of a file in the published format by backbone; its folder has the tokenizer."""
    folder = tmp_path_factory.mktemp("seem")
    return {name: write_checkpoint(folder / f"{name}.pt", name) for name in ("focal_dw", "focal", "sam_vit")}


@pytest.fixture(scope="session")
def load_tiny(tiny_checkpoints):
    def load(backbone="focal", **options):
        path = tiny_checkpoints[backbone]
        return Seem.from_checkpoint(path, path.parent / "tokenizer", **UNTOLD, **options)

    return load


@pytest.fixture(scope="session")
def tiny(load_tiny):
    """One network for tests that do not change it."""
    return load_tiny(templates=("{}.", "a photo of a {}."), short_side=64)
