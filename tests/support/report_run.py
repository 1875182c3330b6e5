"""A run to report on, its audit counted pixel by pixel, and the report as a reader sees it."""

from html.parser import HTMLParser

import numpy as np
import torch
from PIL import Image
from stage_runs import STAGES

from pipeline.run import Run
from pipeline.store import open_calibration, open_labels, open_probabilities

VOID_TAGS = {"meta", "img", "br"}  # they have no end


def run_with_receipts(settings):
    """All stages up to the labels, with receipts as the commands write them."""
    for name, stage in STAGES.items():
        Run(settings).finish(name, stage(settings))


def naive_audit(settings):
    """Pixel by pixel from the stores and the mask files; resampling by torch, prediction sets as in paper Eq. 4."""
    folder = settings.folder
    probabilities, labels = open_probabilities(folder / "probs.zarr"), open_labels(folder / "labels.zarr")
    q_hat = open_calibration(folder / "calibration.zarr").q_hat(labels.state["alpha"], labels.state["variant"])
    totals = dict.fromkeys(("pixels", "raw_right", "kept", "kept_right", "covered"), 0)
    for i, sample_id in enumerate(labels.sample_ids):
        with Image.open(f"{settings.data.root}/masks/{sample_id}.png") as mask:
            pixels = torch.from_numpy(np.array(mask))[None, None].float()
        truth = torch.nn.functional.interpolate(pixels, tuple(settings.data.grid), mode="nearest-exact")[0, 0].numpy()
        maps = probabilities.probabilities(probabilities.sample_ids.index(sample_id)).rows(slice(None))
        label = labels.label(i)
        for a, b in np.ndindex(truth.shape):
            true = int(truth[a, b])
            if true == 255:
                continue
            totals["pixels"] += 1
            totals["raw_right"] += int(np.argmax(maps[:, a, b])) == true
            totals["kept"] += not np.isnan(label[a, b])
            totals["kept_right"] += label[a, b] == true
            threshold = q_hat[true, a, b] if q_hat.ndim == 3 else q_hat[a, b]
            totals["covered"] += np.float32(1) - maps[true, a, b] <= threshold
    return totals


class Page(HTMLParser):
    """Checks that tags are balanced; collects text, addresses, pictures and rows (the texts of their cells)."""

    def __init__(self, settings):
        super().__init__()
        self.open, self.words, self.links, self.pictures, self.rows = [], [], [], [], []
        self.html = (settings.folder / "report.html").read_text(encoding="utf-8")
        self.feed(self.html)
        assert self.open == [], "tags left open"
        self.text = plain(" ".join(self.words))
        self.rows = [[plain(cell) for cell in row] for row in self.rows]

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [values[name] for name in ("src", "href") if name in values]
        self.pictures += [values] if tag == "img" else []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID_TAGS:
            assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data):
        if self.open[-1:] == ["style"]:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += f" {data}"


def plain(text):
    """Without runs of spaces and unbreakable ones."""
    return " ".join(text.replace("\u00a0", " ").split())
