"""The image encoder of SEEM's SAM variants: SAM's vision transformer, and a pyramid of four maps on top of it.

Source: Segment Anything (Kirillov et al. 2023) for the transformer, MViTv2 (Li et al. 2022) for its relative positions,
SEEM (Zou et al. 2023) for the pyramid. Parameters are named as in `seem_samvitb_v1.pt` and `seem_samvitl_v1.pt`.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH_SIZE = 16
CHANNELS = (128, 256, 512, 1024)  # of res2..res5
MLP_RATIO = 4
NORM_EPS = 1e-6  # of the layer norms; the pyramid's group norms have torch's 1e-5


class SamVitBackbone(nn.Module):
    """Computes four maps, at strides 4, 8, 16 and 32, of square images of a fixed size.

    width:         feature channels D of the transformer
    depth:         number of blocks
    num_heads:     attention heads; a divisor of `width`
    global_blocks: indices of the blocks with global attention; the others attend inside windows
    image_size:    height and width of the images in pixels, a multiple of 32
    window_size:   side of a window in patches
    """

    channels = CHANNELS

    def __init__(
        self,
        width: int,
        depth: int,
        num_heads: int,
        global_blocks: Sequence[int],
        image_size: int = 1024,
        window_size: int = 14,
    ) -> None:
        super().__init__()
        grid_size = image_size // PATCH_SIZE
        self.image_size = image_size
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, width, PATCH_SIZE, stride=PATCH_SIZE)))
        self.pos_embed = nn.Parameter(torch.zeros(1, grid_size, grid_size, width))
        # Global attention is attention inside a single window that covers the whole grid.
        self.blocks = nn.ModuleList(
            Block(width, num_heads, grid_size if index in global_blocks else window_size) for index in range(depth)
        )
        self.neck = Pyramid(width)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of a batch of normalised images.

        images:  float [B, 3, H, W], H = W = image_size
        returns: res2..res5, float [B, D, H / s, W / s] with D = 128, 256, 512, 1024 and stride s = 4, 8, 16, 32
        raises:  ValueError for images of another size, because the position table has one size only
        """
        height, width = images.shape[-2:]
        if (height, width) != (self.image_size, self.image_size):
            size = f"{self.image_size} x {self.image_size}"
            raise ValueError(
                f"the SAM backbone takes images of {size} pixels, got {height} x {width}; resize and pad them"
            )
        tokens = self.patch_embed(images).permute(0, 2, 3, 1) + self.pos_embed  # [B, H / 16, W / 16, D]
        for block in self.blocks:
            tokens = block(tokens)
        return self.neck(tokens.permute(0, 3, 1, 2))


class Block(nn.Module):
    """A pre-norm transformer block with attention inside windows of `window_size` x `window_size` tokens."""

    def __init__(self, width: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        hidden = MLP_RATIO * width
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = RelativeAttention(width, num_heads, window_size)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = nn.Sequential(
            OrderedDict(lin1=nn.Linear(width, hidden), gelu=nn.GELU(), lin2=nn.Linear(hidden, width))
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: float [B, H, W, D]; returns the same shape."""
        tokens = tokens + self._attend(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))

    def _attend(self, tokens: Tensor) -> Tensor:
        height, width = tokens.shape[1:3]
        side = self.attn.side
        # The padding is zero here, after the norm, and takes part in attention, as in SAM's training.
        padded = F.pad(tokens, (0, 0, 0, -width % side, 0, -height % side))
        attended = _join_windows(self.attn(_split_windows(padded, side)), padded.shape)
        return attended[:, :height, :width]


class RelativeAttention(nn.Module):
    """Multi-head attention among `side` x `side` tokens with a learned bias per row and column distance.

    The bias of query (i, j) towards key (k, l) is query . rel_pos_h[i - k] + query . rel_pos_w[j - l].
    """

    def __init__(self, width: int, num_heads: int, side: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.side = side
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, width // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, width // num_heads))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: float [B, H, W, D], H = W = side; returns the same shape."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))  # [B, H, W, 3, heads, D / heads]
        query, key, value = qkv.permute(3, 0, 4, 1, 2, 5).unbind()  # [B, heads, H, W, D / heads] each
        attended = F.scaled_dot_product_attention(
            query.flatten(2, 3), key.flatten(2, 3), value.flatten(2, 3), attn_mask=self._position_bias(query)
        )  # [B, heads, H * W, D / heads]
        return self.proj(attended.transpose(1, 2).reshape(tokens.shape))

    def _position_bias(self, query: Tensor) -> Tensor:
        """query: float [B, heads, H, W, D / heads], not scaled; returns float [B, heads, H * W, H * W]."""
        steps = torch.arange(self.side, device=query.device)
        distances = steps[:, None] - steps + self.side - 1  # of query (first axis) and key, counted from 0
        by_row = torch.einsum("bnhwd,hkd->bnhwk", query, self.rel_pos_h[distances])
        by_column = torch.einsum("bnhwd,wkd->bnhwk", query, self.rel_pos_w[distances])
        # The results of einsum are permuted in memory; so would be their sum, and flattening it copies 800 MB (ViT-B).
        bias = by_row.contiguous()[..., :, None] + by_column.contiguous()[..., None, :]  # [B, heads, H, W, H, W]
        return bias.flatten(4).flatten(2, 3)


class Pyramid(nn.Module):
    """Computes maps at strides 4, 8, 16 and 32 from a map at stride 16, with one branch for each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        finer, coarser = max(256, width // 2), max(1024, 2 * width)
        self.down_4 = nn.Sequential(
            nn.ConvTranspose2d(width, finer, 2, stride=2),
            _image_norm(finer),
            nn.GELU(),
            nn.ConvTranspose2d(finer, finer // 2, 2, stride=2),
            _image_norm(finer // 2),
            *_projection(finer // 2, CHANNELS[0]),
        )
        self.down_8 = nn.Sequential(
            nn.ConvTranspose2d(width, finer, 2, stride=2), _image_norm(finer), *_projection(finer, CHANNELS[1])
        )
        self.down_16 = nn.Sequential(*_projection(width, CHANNELS[2]))
        self.down_32 = nn.Sequential(
            nn.Conv2d(width, coarser, 2, stride=2), _image_norm(coarser), *_projection(coarser, CHANNELS[3])
        )

    def forward(self, features: Tensor) -> list[Tensor]:
        """features: float [B, D, H, W] at stride 16, H and W even; returns the maps at strides 4, 8, 16, 32."""
        return [branch(features) for branch in (self.down_4, self.down_8, self.down_16, self.down_32)]


def _projection(width_in: int, width_out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(width_in, width_out, 1), _image_norm(width_out), nn.GELU()


def _image_norm(width: int) -> nn.GroupNorm:
    # A single group: mean and variance over all channels and positions of an image.
    return nn.GroupNorm(1, width)


def _split_windows(tokens: Tensor, side: int) -> Tensor:
    """float [B, H, W, D], H and W multiples of `side`, to float [B * windows, side, side, D], row by row."""
    windows = tokens.unflatten(2, (-1, side)).unflatten(1, (-1, side))  # [B, rows, side, columns, side, D]
    return windows.transpose(2, 3).flatten(0, 2)


def _join_windows(windows: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `_split_windows`; `shape` is that of its tokens, [B, H, W, D]."""
    batch, height, width, _ = shape
    side = windows.shape[1]
    grid = windows.unflatten(0, (batch, height // side, width // side))  # [B, rows, columns, side, side, D]
    return grid.transpose(2, 3).reshape(shape)
