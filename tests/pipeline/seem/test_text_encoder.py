import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from pipeline.seem.configuration import text_defaults
from pipeline.seem.text_encoder import TextEncoder, encode_texts


def ours_and_theirs(seed=0):
    """The same weights in both implementations, drawn by each from one seed."""
    sizes = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "projection_dim": 8, "num_hidden_layers": 2}
    special = {"bos_token_id": 28, "eos_token_id": 29, "pad_token_id": 29}
    config = CLIPTextConfig(**text_defaults() | sizes | special, num_attention_heads=2, max_position_embeddings=12)
    networks = []
    for kind in (TextEncoder, CLIPTextModelWithProjection):
        torch.manual_seed(seed)
        networks.append(kind(config).eval())
    return networks


def test_first_weights_are_those_that_transformers_draws():
    ours, theirs = (network.state_dict() for network in ours_and_theirs())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("length", [1, 5, 12])
def test_features_are_those_of_transformers_for_texts_of_any_length(length):
    ours, theirs = ours_and_theirs()
    token_ids = torch.randint(0, 28, (3, length))
    token_ids[:, -1] = 29
    with torch.no_grad():
        features = encode_texts(ours, token_ids)
        expected = theirs(token_ids)
        tokens = theirs.text_projection(expected.last_hidden_state)
    torch.testing.assert_close(features.tokens, tokens, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(features.ends, expected.text_embeds, atol=1e-6, rtol=1e-5)
