"""The official code's reference data: not in this repository, but beside it or where CONFORMALSAM_PARITY says."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

PARITY = Path(os.environ.get("CONFORMALSAM_PARITY", Path(__file__).parents[2] / "../shared/parity")).resolve()
PUBLISHED_KEYS = PARITY.parent / "spec/seem_checkpoint_keys.json"
SET_IT = "set CONFORMALSAM_PARITY to the folder of the reference tensors"


def published_keys():
    """Names and shapes of the published files, by file name."""
    if not PUBLISHED_KEYS.exists():
        pytest.skip(f"the list of published keys is not here: {PUBLISHED_KEYS}; {SET_IT}")
    return json.loads(PUBLISHED_KEYS.read_text())


def seeded_weights(shapes, seed):
    """Weights as a function of name, shape and seed, by the reference's own script."""
    spec = importlib.util.spec_from_file_location("reference_weights", PARITY / "weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_state_dict(shapes, seed=seed)
