import re

import pytest
import torch

from pipeline.errors import TrainingError
from train.students import new_network, random_network

NAMES = ["a", "b", "c"]


def published(network):
    """The encoder's weights as NVlabs/SegFormer names them: written from its code, not from the renaming under test."""
    own = network.segformer.state_dict()
    theirs = {}
    for stage in range(4):
        s, n = f"stages.{stage}", stage + 1
        pairs = {f"patch_embed{n}.proj": f"{s}.patch_embeddings.proj", f"norm{n}": f"{s}.layer_norm"}
        pairs[f"patch_embed{n}.norm"] = f"{s}.patch_embeddings.layer_norm"
        for block in {int(re.match(rf"{s}\.blocks\.(\d+)", k)[1]) for k in own if k.startswith(f"{s}.blocks.")}:
            o, t = f"{s}.blocks.{block}", f"block{n}.{block}"
            pairs |= {f"{t}.norm1": f"{o}.layernorm_before", f"{t}.norm2": f"{o}.layernorm_after"}
            pairs |= {f"{t}.attn.q": f"{o}.attention.q_proj", f"{t}.attn.proj": f"{o}.attention.o_proj"}
            pairs |= {f"{t}.mlp.{part}": f"{o}.mlp.{part}" for part in ("fc1", "fc2", "dwconv.dwconv")}
            if stage < 3:
                reduction = f"{o}.attention.sequence_reduction"
                pairs[f"{t}.attn.sr"] = f"{reduction}.sequence_reduction"
                pairs[f"{t}.attn.norm"] = f"{reduction}.layer_norm"
            for kind in ("weight", "bias"):
                keys, values = (own[f"{o}.attention.{which}_proj.{kind}"] for which in "kv")
                theirs[f"{t}.attn.kv.{kind}"] = torch.cat([keys, values])
        theirs |= {f"{t}.{kind}": own[f"{o}.{kind}"] for t, o in pairs.items() for kind in ("weight", "bias")}
    return theirs | {"head.weight": torch.zeros(1000, 96), "head.bias": torch.zeros(1000)}


@pytest.fixture
def source():
    torch.manual_seed(5)
    return random_network("tiny", NAMES).eval()


def loaded(path, student="tiny"):
    torch.manual_seed(0)
    return new_network(student, str(path), NAMES)


def with_prefix(weights):
    return {f"backbone.{name}": weight for name, weight in weights.items()}


@pytest.mark.parametrize("wrap", [dict, lambda weights: {"state_dict": weights}, with_prefix])
def test_gives_the_features_of_the_published_encoder(source, wrap, tmp_path):
    weights = published(source)
    assert len(weights) == 2 + len(source.segformer.state_dict()) - 2 * 4  # keys and values are one tensor
    torch.save(wrap(weights), tmp_path / "mit_tiny.pth")
    network = loaded(tmp_path / "mit_tiny.pth").eval()
    pixels = torch.randn(1, 3, 64, 64)
    for one, other in zip(network.encode(pixels), source.encode(pixels), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(network.decode_head.linear_fuse.weight, source.decode_head.linear_fuse.weight)


def test_the_decode_head_comes_from_the_seed(source, tmp_path):
    torch.save(published(source), tmp_path / "mit_tiny.pth")
    one, other = (loaded(tmp_path / "mit_tiny.pth").decode_head for _ in range(2))
    assert torch.equal(one.linear_fuse.weight, other.linear_fuse.weight)


def test_refuses_a_file_of_another_size(source, tmp_path):
    torch.save(published(source), tmp_path / "mit_b5.pth")
    with pytest.raises(TrainingError, match=r"do not fit train\.student b0: \d+ tensors.*set train\.student"):
        loaded(tmp_path / "mit_b5.pth", "b0")


def test_refuses_a_file_that_lacks_a_tensor(source, tmp_path):
    weights = published(source)
    del weights["block2.0.attn.q.weight"]
    torch.save(weights, tmp_path / "mit.pth")
    with pytest.raises(TrainingError, match=r"1 tensors are missing.*stages\.1\.blocks\.0\.attention\.q_proj\.weight"):
        loaded(tmp_path / "mit.pth")


def test_says_what_a_file_should_hold(tmp_path):
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "resnet.pth")
    with pytest.raises(TrainingError, match=r"holds no MiT encoder, expected tensors named patch_embed1"):
        loaded(tmp_path / "resnet.pth")
    (tmp_path / "broken.pth").write_bytes(b"no zip")
    with pytest.raises(TrainingError, match="not a file of weights that torch can read"):
        loaded(tmp_path / "broken.pth")
    with pytest.raises(TrainingError, match=r"does not exist; download mit_b\*\.pth"):
        loaded(tmp_path / "nowhere.pth")


def test_refuses_to_run_code_that_a_file_carries(tmp_path):
    torch.save({"patch_embed1.proj.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(TrainingError, match="not a file of weights"):
        loaded(tmp_path / "trap.pth")


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("code of the file ran",))


def test_a_dino_student_takes_no_mit_file(source, tmp_path):
    torch.save(published(source), tmp_path / "mit.pth")
    with pytest.raises(
        TrainingError, match=r"a MiT encoder, which train\.student dinov2-tiny does not have; set train\.student"
    ):
        loaded(tmp_path / "mit.pth", "dinov2-tiny")
