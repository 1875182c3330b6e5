"""Runs a converted SEEM on one photograph with VOC's names and prints its times and memory, as JSON.

python photograph_run.py CHECKPOINT_FOLDER IMAGE
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.seem import Seem

VOC_NAMES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip


def main() -> None:
    folder, photograph = sys.argv[1:]
    with Image.open(photograph) as opened:
        image = np.asarray(opened.convert("RGB"))
    seem = Seem.from_pretrained(folder)
    start = time.monotonic()
    texts = seem.class_texts(VOC_NAMES, background="prompt")
    embedded = time.monotonic()
    maps = {normalise: seem.semantic_maps(image[None], texts, normalise)[0] for normalise in ("none", "cap")}
    seconds = (time.monotonic() - embedded) / len(maps)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    facts = {
        "parameters": seem.model.num_parameters(),
        "image": image.shape,
        "map": maps["none"].shape,
        "range": [float(maps["none"].min()), float(maps["none"].max())],
        "capped_sum": float(maps["cap"].sum(axis=0).max()),
        "seconds_texts": round(embedded - start, 1),
        "seconds_image": round(seconds, 2),
        "peak_gigabytes": round(int(peak.split()[1]) / 1e6, 2),
    }
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
