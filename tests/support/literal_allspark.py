"""AllSpark's block step by step as it is published, with every attention map.

The oracle of `train.students.allspark.decoder`. It uses only the weights of the method, by their names. Empty vectors
of the memory are left out, not masked.
"""

import torch
from torch import nn
from torch.nn import functional


def literal_block(block, features, num_labeled=0, memory=None, dropout=0.0):
    """The result of AllSparkBlock.

    block:       gives the weights and the mode
    features:    float [B, C, H, W]
    num_labeled: number of labeled images, which come first
    memory:      None, or vectors float [K, C, N] and which are filled, bool [K, C]
    dropout:     dropout rate
    """
    height, width = features.shape[2:]
    entered = functional.gelu(functional.conv2d(features, block.enter[0].weight, block.enter[0].bias))
    tokens = entered.flatten(2).transpose(1, 2)  # [B, N, C]
    normal = _layer_norm(tokens, block.enter_norm)
    if block.training:
        labeled, unlabeled = normal[:num_labeled], normal[num_labeled:]
        current = unlabeled if memory is None else unlabeled.detach()  # instead of a memory, which has no gradient
        context = _memory_context(memory) or [(image, None) for image in current]
        attended = literal_cross(block.cross_attention, labeled, context, dropout) if len(labeled) else []
        attended += [literal_self(block.self_attention, image, dropout) for image in unlabeled]
    else:
        attended = [literal_cross(block.cross_attention, [image], [(image, None)])[0] for image in normal]
    left = _layer_norm(torch.stack(attended) + tokens, block.leave_norm)
    maps = left.transpose(1, 2).unflatten(2, (height, width))
    return functional.gelu(functional.conv2d(maps, block.leave[0].weight, block.leave[0].bias))


def _layer_norm(tokens, norm):
    """Over the last axis, written out."""
    mean, variance = tokens.mean(-1, keepdim=True), tokens.var(-1, keepdim=True, correction=0)
    return (tokens - mean) / (variance + 1e-6).sqrt() * norm.weight + norm.bias


def _memory_context(memory):
    """For each class with vectors: these as tokens [N, number], and which inputs of the linear layers they are."""
    if memory is None:
        return []
    return [
        (vectors[is_filled].T, is_filled)
        for vectors, is_filled in zip(*memory, strict=True)
        if is_filled.any()
    ]  # fmt: skip


def literal_cross(attention, images, context, dropout=0.0):
    """Tokens [N, C] of images that all attend to the same context -> a list of [N, C]."""
    key = torch.cat([_linear(tokens, attention.key, inputs) for tokens, inputs in context], dim=1)  # [N, M]
    value = torch.cat([_linear(tokens, attention.value, inputs) for tokens, inputs in context], dim=1)
    results = []
    for image in images:
        query = (image @ attention.query.weight.T).T  # [h C, N]
        attended = _attend(query, key, value, dropout)  # [h C, N]
        results.append(functional.dropout(attended.T @ attention.out.weight.T, dropout))
    return results


def _linear(tokens, linear, inputs):
    weight = linear.weight if inputs is None else linear.weight[:, inputs]
    return tokens @ weight.T


def literal_self(attention, image, dropout=0.0):
    """Tokens [N, C] of an image -> [N, C], one head after the other."""
    num_channels, heads = image.shape[1], []
    for head in range(attention.num_heads):
        rows = slice(head * num_channels, (head + 1) * num_channels)
        query, key, value = (
            image @ linear.weight[rows].T for linear in (attention.query, attention.key, attention.value)
        )
        heads.append(_attend(query.T, key, value, dropout))  # [C, N]
    side_by_side = torch.stack(heads, dim=1).flatten(0, 1)  # [C h, N], the head changes fastest
    return functional.dropout(side_by_side.T @ attention.out.weight.T, dropout)


def _attend(query, key, value, dropout):
    """[L, N], [N, M], [N, M] -> [L, N]."""
    logits = (query @ key)[None, None]
    if logits[0, 0].numel() > 1:  # torch refuses to normalise a single value, whose norm is 0
        logits = nn.InstanceNorm2d(1)(logits)
    weights = functional.dropout(logits.softmax(dim=3), dropout)
    return weights[0, 0] @ value.T


class LiteralMemory:
    """The queues as lists, one channel after the other."""

    def __init__(self, num_classes, num_channels):
        self.slots = [[None] * num_channels for _ in range(num_classes)]
        self.pointers = [0] * num_classes

    def enqueue(self, features, groups):
        for image, classes in zip(features, groups.tolist(), strict=True):
            for channel, of in zip(image, classes, strict=True):
                if of >= 0:
                    self.slots[of][self.pointers[of]] = channel
                    self.pointers[of] = (self.pointers[of] + 1) % len(self.slots[of])


def literal_groups(logits, features):
    """Class of each channel: the one whose map, of the same size, has the largest cosine with it."""
    groups = torch.empty(features.shape[:2], dtype=torch.int64)
    for image, channel in torch.cartesian_prod(*(torch.arange(size) for size in features.shape[:2])).tolist():
        one = features[image, channel].flatten()
        cosines = [one @ (c := other.flatten()) / (one.norm() * c.norm()) for other in logits[image]]
        groups[image, channel] = max(range(len(cosines)), key=cosines.__getitem__)
    return groups
