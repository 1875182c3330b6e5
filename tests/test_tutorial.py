"""Every command block of the README's own images and of the tutorial runs as printed, in order, on small images.

Two things are not as printed: `download` needs the network, so a tiny checkpoint in the published format is converted
in place of its file; and after `init` the run file asks for a short training. CI runs `make demo` by itself.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.mask import encode
from tiny_run import write_sample_files
from tiny_seem import write_checkpoint

ROOT = Path(__file__).parents[1]
ELSEWHERE = ("make demo", ". .venv/bin/activate", "conformalsam download")
SHORT = {
    "data": {"grid": [32, 40]},
    "annotate": {"class_check": "warn"},  # its maps are noise
    "train": {"student": "tiny", "weights": "random", "crop": 32, "scale": [0.9, 1.0], "total_epochs": 2},
    "gallery": {"in_report": False},
}

pytestmark = pytest.mark.slow


def section_of(document, heading=None):
    text = (ROOT / document).read_text()
    return text if heading is None else text.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def lines_of(text):
    """Commands of the blocks, without their comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text.replace("\\\n", " "), re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s+# .*", "", line) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(ELSEWHERE)]


def write_annotations(folder):
    """The masks as a COCO JSON, one run-length encoding for each class of an image."""
    images, outlines = [], []
    for number, path in enumerate(sorted((folder / "masks").iterdir()), start=1):
        mask = np.array(Image.open(path))
        images.append({"id": number, "file_name": path.name, "height": mask.shape[0], "width": mask.shape[1]})
        for value in (1, 2):
            rle = encode(np.asfortranarray(mask == value).astype(np.uint8))
            rle["counts"] = rle["counts"].decode()
            outline = {
                "id": len(outlines) + 1,
                "image_id": number,
                "category_id": value,
                "iscrowd": 0,
                "segmentation": rle,
            }
            outlines.append(outline)
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": outlines, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))


@pytest.fixture
def place(tmp_path):
    """A folder like a clone, with the user's images, masks, list of classes and downloaded checkpoint in it."""
    for name in ("Snakefile", "environment.yml", "profiles"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "config").mkdir()
    ids = [f"im{i:02d}" for i in range(14)]
    write_sample_files(tmp_path / "mydata", ids, size=(40, 48), masked=ids[:10])
    write_annotations(tmp_path / "mydata")
    (tmp_path / "classes.txt").write_text("background\ncat\ndog = dog, puppy\n")
    (tmp_path / "checkpoints").mkdir()
    write_checkpoint(tmp_path / "checkpoints/tiny.pt", "focal_l")
    return tmp_path


def run_line(place, line):
    """Run a line in a shell as a user would, with the commands of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = re.sub(r"\S+/seem_focall_v0\.pt", "checkpoints/tiny.pt", line)
    done = subprocess.run(["bash", "-c", line], cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    for run_file in (place / "config").glob("*.yaml"):
        make_short(run_file)


def make_short(run_file):
    tree = yaml.safe_load(run_file.read_text())
    for section, entries in SHORT.items():
        tree[section] = tree.get(section, {}) | entries
    run_file.write_text(yaml.safe_dump(tree))


def test_every_command_of_the_readme_and_the_tutorial(place):
    """A command that both print runs once. The tutorial's run file has other masks than the README's, so it goes."""
    (place / "FOLDER").symlink_to(place / "mydata/images")
    readme, tutorial = lines_of(section_of("README.md", "Your own images")), lines_of(section_of("docs/tutorial.md"))
    start = [line for line in tutorial if line.startswith(("conformalsam convert-seem", "conformalsam init"))]
    assert (len(start), len(readme) >= 6, len(tutorial) >= 8) == (2, True, True)
    for line in start:
        run_line(place, line)
    (place / "config/mine.yaml").unlink()
    for line in dict.fromkeys([*readme, *tutorial]):
        if line not in start:
            run_line(place, line)
    results = place / "results/mine"
    assert (results / "report.html").is_file()
    assert (results / "export/student.onnx").is_file()
    assert len(list((results / "export/png").rglob("*.png"))) == 4
    assert len(list((place / "OUT").glob("*.png"))) == 14
