"""Every module of the network gives its recorded numbers, recorded when all equalled those of the official code.

`boxes.npz` holds our own numbers for tiny seeded networks, so that a fresh clone can check each module without the
official tensors of test_parity.py. `PYTHONPATH=tests/support python tests/pipeline/seem/test_boxes.py` writes it again;
do that only where test_parity.py ran and passed.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_seem import UNTOLD, write_checkpoint

from pipeline.seem import Seem
from pipeline.seem.maps import network_input

RECORDED = Path(__file__).with_name("boxes.npz")
BACKBONES = ("focal_dw", "focal", "sam_vit")
TOLERANCE = 5e-5  # of a tensor's largest absolute value: other processors add in another order
IMAGE = (np.indices((44, 60)).sum(axis=0)[..., None] * np.array([3, 5, 7]) % 256).astype(np.uint8)
NAMES = ["cat", "sea lion"]
NUM_KEPT = 24  # values of each tensor that are recorded


@torch.inference_mode()
def boxes(checkpoint):
    """Outputs of every module for one image, by name."""
    seem = Seem.from_checkpoint(checkpoint, checkpoint.parent / "tokenizer", short_side=62, **UNTOLD)
    model = seem.model
    pixels, _ = network_input(IMAGE[None], 62, seem.config)
    features = model.backbone(pixels)
    maps, finest = model.pixel_decoder(features)
    memory = model.read_image(pixels)
    embeddings = torch.from_numpy(seem.text_embeddings([*NAMES, "background"]))
    layers = [model.predict(queries, memory, embeddings) for queries in model.mask_decoder(memory)]
    tokens, ends = seem._prompt_features(NAMES)
    grounded = model.ground(memory, torch.cat(tokens), ends)
    return {
        "pixels": pixels,
        **{f"res{stage}": found for stage, found in enumerate(features, start=2)},
        **{f"map{level}": found for level, found in enumerate(maps)},
        "mask_features": model.pixel_decoder.mask_features(finest),
        "class_texts": embeddings,
        "prompt_tokens": torch.cat(tokens),
        **{f"layer{i}_{field}": value for i, layer in enumerate(layers) for field, value in layer._asdict().items()},
        **{f"grounded_{field}": value for field, value in grounded._asdict().items()},
        "semantic_map": seem.semantic_map(IMAGE, NAMES, background="prompt", normalise="cap"),
        "grounding_map": seem.grounding_map(IMAGE, NAMES),
    }


def digest(tensor):
    """Largest absolute value, then values spread evenly over the tensor."""
    values = np.asarray(tensor, np.float32).ravel()
    places = np.linspace(0, values.size - 1, NUM_KEPT).astype(int)
    return np.concatenate([[np.abs(values).max()], values[places]])


@pytest.fixture(scope="module")
def recorded():
    with np.load(RECORDED) as stored:
        return dict(stored)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_module_gives_its_recorded_numbers(tiny_checkpoints, recorded, backbone):
    found = boxes(tiny_checkpoints[backbone])
    assert {f"{backbone}/{name}" for name in found} == {name for name in recorded if name.startswith(f"{backbone}/")}
    for name, tensor in found.items():
        expected = recorded[f"{backbone}/{name}"]
        assert np.abs(digest(tensor) - expected).max() <= TOLERANCE * expected[0], name


def record(folder):
    """Record the numbers of all modules."""
    numbers = {}
    for backbone in BACKBONES:
        found = boxes(write_checkpoint(folder / f"{backbone}.pt", backbone))
        numbers |= {f"{backbone}/{name}": digest(tensor).astype(np.float32) for name, tensor in found.items()}
    np.savez_compressed(RECORDED, **numbers)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        record(Path(temporary))
    sys.stdout.write(f"wrote {RECORDED}\n")
