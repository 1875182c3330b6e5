"""The README and the documents: their Python runs as printed, and their links lead somewhere."""

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from stage_runs import run_stages

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs/howto").glob("*.md")]


def python_blocks(path):
    return re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def test_the_lines_of_the_readme_label_new_maps():
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 3, (20, 8, 8))
    maps = rng.dirichlet(np.ones(3), (20, 8, 8)).transpose(0, 3, 1, 2)
    names = {"maps": maps, "masks": masks, "new_maps": maps[:2]}
    (block,) = python_blocks(ROOT / "README.md")
    exec(block, names)
    assert names["labels"].shape == (2, 8, 8)


def test_the_python_of_the_guide_runs_and_prints_what_it_says(
    tmp_path, write_images, make_settings, monkeypatch, capsys
):
    write_images(tmp_path / "data", [f"im{i}" for i in range(12)])
    run_stages(make_settings(name="demo", alpha=0.3))
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in python_blocks(ROOT / "docs/python.md"):
        if "api.run(" not in block:  # tests/pipeline/test_api.py runs that one
            exec(block, names)
    printed = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("on held-out"))
    assert printed in (ROOT / "docs/python.md").read_text()
    assert names["labels"]["label"].dims == ("sample", "y", "x")
    assert names["first"].shape == (16, 24)


def test_the_notebook_goes_from_maps_to_a_picture():
    notebook = json.loads((ROOT / "docs/maps_to_labels.ipynb").read_text())
    nbformat.validate(notebook)
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]), names)
    assert names["precision"] > names["raw_precision"]
    drawn = np.unique(np.asarray(names["picture"]).reshape(-1, 3), axis=0)
    assert drawn.tolist() == np.unique(names["colours"], axis=0).tolist()


def anchors_of(text):
    """Anchors of the headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), target
        if anchor:
            assert anchor in anchors_of(path.read_text()), target
