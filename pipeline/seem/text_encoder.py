"""The text encoder: token ids to vectors, which are compared with queries (classes) or added to them (prompts)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig

EPSILON = 1e-7


class TextFeatures(NamedTuple):
    """Projected features of a batch of texts."""

    tokens: Tensor  # float [N, L, P], of every position
    ends: Tensor  # float [N, P], of the end token


class TextEncoder(nn.Module):
    """CLIPTextModelWithProjection of transformers with the same parameters, names and results."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.text_model = TextModel(config)
        self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        initialise(self.text_projection)
        initialise(self.text_projection, std=config.hidden_size**-0.5)

    def forward(self, token_ids: Tensor) -> Tensor:
        """int64 [N, L] -> float [N, L, P]."""
        projected: Tensor = self.text_projection(self.text_model(token_ids))
        return projected


class TextModel(nn.Module):
    """Embeddings, transformer layers, layer norm."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Layers(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        depth_factor = (2 * config.num_hidden_layers) ** -0.5
        self.apply(lambda module: initialise_part(module, depth_factor))

    def forward(self, token_ids: Tensor) -> Tensor:
        """int64 [N, L] -> float [N, L, D]."""
        normed: Tensor = self.final_layer_norm(self.encoder(self.embeddings(token_ids)))
        return normed


class Embeddings(nn.Module):
    """Vectors of tokens and of their positions, added."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, token_ids: Tensor) -> Tensor:
        """int64 [N, L] -> float [N, L, D]."""
        embedded: Tensor = self.token_embedding(token_ids) + self.position_embedding.weight[: token_ids.shape[1]]
        return embedded


class Layers(nn.Module):
    """The transformer layers one after another."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, hidden: Tensor) -> Tensor:
        """float [N, L, D] -> the same."""
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


class Layer(nn.Module):
    """Attention and a feed-forward layer, each after a layer norm and added to its input."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.self_attn = CausalAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = FeedForward(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        """float [N, L, D] -> the same."""
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        return hidden + self.mlp(self.layer_norm2(hidden))


class CausalAttention(nn.Module):
    """Attention of every token to itself and to the tokens before it."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        width = config.hidden_size
        self.head_dim = width // config.num_attention_heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, hidden: Tensor) -> Tensor:
        """float [N, L, D] -> the same."""
        queries, keys, values = (
            projection(hidden).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # [N, heads, L, d]
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        is_causal, scale = hidden.shape[1] > 1, self.head_dim**-0.5
        mixture = functional.scaled_dot_product_attention(queries, keys, values, is_causal=is_causal, scale=scale)
        out: Tensor = self.out_proj(mixture.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """Two linear maps with the activation function of CLIP between them, an approximation of GELU."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        assert config.hidden_act == "quick_gelu"
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """float [N, L, D] -> the same."""
        hidden = self.fc1(hidden)
        out: Tensor = self.fc2(hidden * torch.sigmoid(1.702 * hidden))
        return out


def initialise_part(module: nn.Module, depth_factor: float) -> None:
    """Initialise a part of the text model with the random numbers that transformers draws, first as any layer.

    depth_factor: of deviations, (2 * number of layers) ** -0.5
    """
    initialise(module)
    if isinstance(module, Embeddings):
        initialise(module.token_embedding)
        initialise(module.position_embedding)
    elif isinstance(module, CausalAttention):
        std = module.out_proj.in_features**-0.5
        for projection in (module.q_proj, module.k_proj, module.v_proj):
            initialise(projection, std * depth_factor)
        initialise(module.out_proj, std)
    elif isinstance(module, FeedForward):
        width = module.fc1.in_features
        initialise(module.fc1, (2 * width) ** -0.5)
        initialise(module.fc2, width**-0.5 * depth_factor)


def initialise(module: nn.Module, std: float = 0.02) -> None:
    """Give a layer normal weights, and biases of 0."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)


def encode_texts(encoder: TextEncoder, token_ids: Tensor) -> TextFeatures:
    """Encode token ids, int64 [N, L], padded with end tokens.

    Attention is causal and the padding is at the end, so the results do not depend on the length of the padding. They
    are computed in float32: texts are encoded once, and half precision cannot represent the LayerNorm epsilon of 1e-12.
    """
    with torch.autocast(token_ids.device.type, enabled=False):
        tokens = encoder(token_ids)
    # The end token has the largest id. argmax gives its first occurrence; later ones are padding.
    ends = tokens[torch.arange(len(tokens), device=tokens.device), token_ids.argmax(dim=-1)]
    return TextFeatures(tokens, ends)


def unit_length(vectors: Tensor) -> Tensor:
    """Vectors float [..., P] scaled to unit length, in float32. A zero vector stays zero."""
    vectors = vectors.float()
    return vectors / (vectors.norm(dim=-1, keepdim=True) + EPSILON)
