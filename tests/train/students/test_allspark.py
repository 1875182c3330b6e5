import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from literal_allspark import LiteralMemory, literal_block, literal_groups
from torch import distributed as dist
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from two_processes import call_in_two_processes

from train.students.allspark import decoder
from train.students.allspark.decoder import (
    AllSparkBlock,
    centred_keys,
    channel_attention,
    inverse_deviation,
)
from train.students.allspark.memory import SemanticMemory, channel_groups

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
SIZES = st.tuples(st.integers(2, 6), st.integers(2, 4), st.integers(1, 4))  # channels, rows, columns


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def block_of(num_channels, num_heads=2, dtype=torch.float32, **options):
    """A block without dropout, with random weights also in its norms."""
    block = AllSparkBlock(num_channels, num_heads, dropout=0.0, **options).to(dtype)
    for seed, (name, weight) in enumerate(block.named_parameters()):
        with torch.no_grad():
            weight.copy_(0.5 * random(*weight.shape, seed=seed) + ("norm.weight" in name))
    return block


def memory_of(is_filled, num_tokens, dtype=torch.float32, seed=3):
    """Random vectors in every slot, also in empty ones."""
    is_filled = torch.as_tensor(is_filled)
    return random(*is_filled.shape, num_tokens, seed=seed, dtype=dtype), is_filled


def answer(way, block, features, num_labeled, memory):
    """The result, and the gradients of the features and of each weight (0 if there is none)."""
    inputs = features.clone().requires_grad_()
    result = way(inputs, num_labeled, memory)
    wanted = [inputs, *block.parameters()]
    loss = (result * random(*result.shape, seed=9, dtype=result.dtype)).sum()
    gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
    return result, [torch.zeros_like(of) if g is None else g for g, of in zip(gradients, wanted, strict=True)]


def assert_as_literal(block, features, num_labeled=0, memory=None):
    ours, our_gradients = answer(block, block, features, num_labeled, memory)
    literal, gradients = answer(lambda *args: literal_block(block, *args), block, features, num_labeled, memory)
    tolerance = TOLERANCE[features.dtype]
    torch.testing.assert_close(ours, literal, atol=tolerance, rtol=tolerance)
    largest = max(1.0, *(gradient.abs().max().item() for gradient in gradients))
    for our, other in zip(our_gradients, gradients, strict=True):
        torch.testing.assert_close(our, other, atol=tolerance * largest, rtol=0)


# The block


def test_adds_4_72_million_parameters_at_512_channels():
    with torch.device("meta"):
        block = AllSparkBlock(512)
    assert sum(weight.numel() for weight in block.parameters()) == pytest.approx(4.72e6, abs=0.005e6)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("num_labeled", [0, 1, 2, 4])
def test_is_the_literal_block_while_there_is_no_memory(dtype, num_labeled):
    assert_as_literal(block_of(6, dtype=dtype), random(5, 6, 3, 4, dtype=dtype), num_labeled)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("num_labeled", [1, 3, 5])
def test_is_the_literal_block_with_a_full_memory(dtype, num_labeled):
    memory = memory_of(torch.ones(4, 6, dtype=torch.bool), 12, dtype)
    assert_as_literal(block_of(6, dtype=dtype), random(5, 6, 3, 4, dtype=dtype), num_labeled, memory)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("filled", [[6, 0, 2], [0, 0, 1], [1, 6, 6], [0, 0, 0]])
def test_empty_slots_of_the_memory_have_no_influence(dtype, filled):
    is_filled = torch.arange(6) < torch.tensor(filled)[:, None]
    assert_as_literal(block_of(6, dtype=dtype), random(4, 6, 3, 4, dtype=dtype), 2, memory_of(is_filled, 12, dtype))


@pytest.mark.parametrize("num_labeled", [1, 3])
def test_an_empty_memory_is_as_none(num_labeled):
    block, features = block_of(6), random(5, 6, 3, 4)
    empty = memory_of(torch.zeros(3, 6, dtype=torch.bool), 12)
    torch.testing.assert_close(block(features, num_labeled, empty), block(features, num_labeled), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_is_the_literal_block_in_evaluation_mode(dtype):
    block = block_of(6, dtype=dtype).eval()
    assert_as_literal(block, random(3, 6, 3, 4, dtype=dtype))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(1, 3), st.integers(0, 3), st.integers(0, 3), st.data())
def test_is_the_literal_block_whatever_the_sizes(size, num_heads, num_labeled, num_unlabeled, data):
    num_channels, height, width = size
    slots = st.lists(st.booleans(), min_size=num_channels, max_size=num_channels)
    is_filled = data.draw(st.none() | st.lists(slots, min_size=1, max_size=4))
    memory = None if is_filled is None else memory_of(is_filled, height * width, torch.float64)
    has_keys = num_unlabeled > 0 or (memory is not None and memory[1].any())
    if num_labeled + num_unlabeled and (has_keys or not num_labeled):
        features = random(num_labeled + num_unlabeled, *size, dtype=torch.float64)
        assert_as_literal(block_of(num_channels, num_heads, torch.float64), features, num_labeled, memory)


def test_labeled_images_alone_need_a_memory():
    with pytest.raises(ValueError, match="no unlabeled image and no memory"):
        block_of(4)(random(2, 4, 3, 3), num_labeled=2)


def test_a_batch_is_evaluated_as_each_image_alone():
    block, features = block_of(6).eval(), random(3, 6, 3, 4)
    alone = torch.cat([block(image[None]) for image in features])
    torch.testing.assert_close(block(features), alone, atol=1e-5, rtol=0)


def test_hands_over_the_unlabeled_channels_before_it_reads_the_memory():
    block, memory, features = block_of(6), SemanticMemory(2, 6, 12), random(4, 6, 3, 4)
    all_of_class_1 = torch.ones(2, 6, dtype=torch.int64)
    handed = []

    def remember(channels):
        handed.append(channels)
        memory.enqueue(channels.flatten(2), all_of_class_1)

    result = block(features, 2, memory.content(), remember)
    assert handed[0].shape == (2, 6, 3, 4)
    assert not handed[0].requires_grad
    assert torch.equal(memory.vectors[1], handed[0][1].flatten(1))
    torch.testing.assert_close(result, literal_block(block, features, 2, memory.content()), atol=1e-5, rtol=1e-5)


def test_a_memory_that_changes_before_the_backward_pass_leaves_the_gradient_alone():
    block, features = block_of(6, dtype=torch.float64), random(4, 6, 3, 4, dtype=torch.float64)
    vectors, is_filled = memory_of(torch.ones(2, 6, dtype=torch.bool), 12, torch.float64)
    gradients = []
    for is_changed in (False, True):
        result = block(features, 2, (vectors, is_filled)).sum()
        if is_changed:
            vectors.zero_()
        gradients.append(torch.autograd.grad(result, block.cross_attention.key.weight)[0])
    assert gradients[0].any()
    assert torch.equal(*gradients)


@pytest.mark.parametrize("num_labeled", [0, 2])
def test_bfloat16_stays_near_float32(num_labeled):
    block, features = block_of(32), random(4, 32, 4, 4)
    memory = memory_of(torch.ones(3, 32, dtype=torch.bool), 16)
    with torch.autocast("cpu", torch.bfloat16):
        half = block(features, num_labeled, memory)
    whole = block(features, num_labeled, memory)
    assert (half.float() - whole).abs().max() < 0.05 * whole.abs().max()


# Attention without its map


@pytest.mark.parametrize("is_key", [None, torch.arange(9) % 3 > 0])
def test_the_deviation_of_a_map_is_computed_without_the_map(is_key):
    query, key = random(2, 3, 5, 4) + 7, random(2, 3, 9, 4, seed=1) - 4  # means that are large beside the deviation
    there = key if is_key is None else key[:, :, is_key]
    variance = (query.double() @ there.double().mT).var(dim=(-2, -1), keepdim=True, correction=0)
    deviation = inverse_deviation(query, *centred_keys(key, is_key), is_key)
    torch.testing.assert_close(deviation, (1 / (variance + 1e-5).sqrt()).float(), rtol=1e-5, atol=0)


def test_the_deviation_of_a_flat_map_is_that_of_the_epsilon():
    query, key = torch.ones(1, 1, 3, 2), torch.full((1, 1, 4, 2), 5.0)
    assert inverse_deviation(query, *centred_keys(key, None)).item() == pytest.approx(1e-5**-0.5)


def test_logits_that_differ_little_beside_their_mean_keep_their_digits():
    query, key, value = (
        1 + 0.1 * random(1, 1, 8, 16),
        100 + 0.1 * random(1, 1, 8, 16, seed=1),
        random(1, 1, 8, 16, seed=2),
    )
    exact = channel_attention(query.double(), key.double(), value.double())
    torch.testing.assert_close(channel_attention(query, key, value).double(), exact, atol=1e-4, rtol=0)


@pytest.mark.parametrize("is_key", [None, torch.arange(40) % 4 > 0])
@pytest.mark.parametrize("queries_at_a_time", [7, 400])
def test_dropout_on_a_cpu_drops_entries_of_the_map(queries_at_a_time, is_key, monkeypatch):
    monkeypatch.setattr(decoder, "QUERIES_AT_A_TIME", queries_at_a_time)
    query, key = random(1, 1, 400, 5), random(1, 1, 40, 5, seed=1)
    everything = torch.eye(40)[None, None]  # so that the result is the map
    whole = channel_attention(query, key, everything, is_key=is_key)
    dropped = channel_attention(query, key, everything, 0.25, is_key)
    is_kept = dropped != 0
    assert is_kept[whole != 0].float().mean().item() == pytest.approx(0.75, abs=0.02)
    torch.testing.assert_close(dropped[is_kept], whole[is_kept] / 0.75, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_dropout_has_the_gradient_of_the_entries_that_it_kept(monkeypatch):
    monkeypatch.setattr(decoder, "QUERIES_AT_A_TIME", 4)
    inputs = [random(2, 1, 9, 5, dtype=torch.float64), random(1, 1, 6, 5, seed=1, dtype=torch.float64)]
    inputs.append(random(1, 1, 6, 5, seed=2, dtype=torch.float64))

    def attention(query, key, value):
        torch.manual_seed(0)
        return channel_attention(query, key, value, dropout=0.3)

    assert torch.autograd.gradcheck(attention, [of.requires_grad_() for of in inputs])


def test_training_with_dropout_repeats_itself_from_the_same_seed():
    block, results = AllSparkBlock(6, dropout=0.5), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(block(random(4, 6, 3, 4), 2))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("memory", [None, memory_of(torch.arange(16) < torch.tensor([[16], [0], [5]]), 17 * 17)])
def test_no_map_is_formed_on_a_cpu(memory):
    block, features = block_of(16), random(4, 16, 17, 17).requires_grad_()
    with profile(activities=[ProfilerActivity.CPU]) as record:
        block(features, 2, memory).sum().backward()
    names = {event.key for event in record.key_averages()}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in names
    assert not {name for name in names if "softmax" in name or "attention_math" in name}


def test_zeros_behind_the_vectors_leave_the_attention_alone():
    query, key, value = random(1, 1, 7, 13), random(1, 1, 9, 13, seed=1), random(1, 1, 9, 13, seed=2)
    aligned = [decoder._aligned(vectors) for vectors in (query, key, value)]  # as CUDA's kernel wants them
    assert {vectors.shape[-1] for vectors in aligned} == {16}
    attended = channel_attention(*aligned)
    torch.testing.assert_close(attended[..., :13], channel_attention(query, key, value), atol=1e-6, rtol=1e-5)
    assert not attended[..., 13:].any()


def test_a_training_pass_asks_the_device_for_no_value():
    with FakeTensorMode():  # whose tensors have none
        block, memory, features = AllSparkBlock(6, dropout=0.1), SemanticMemory(2, 6, 12), torch.randn(4, 6, 3, 4)
        logits = torch.randn(2, 2, 24, 32)

        def remember(channels):
            memory.enqueue(channels.flatten(2), channel_groups(logits, channels))

        block(features, 2, memory.content(), remember).sum().backward()
        with pytest.raises(DataDependentOutputException):
            memory.pointer[0].item()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_no_map_is_formed_on_a_gpu(dtype, dropout):
    block = AllSparkBlock(512, dropout=dropout).cuda()
    features, memory = random(4, 512, 17, 17).cuda(), memory_of(torch.arange(512) < torch.full((40, 1), 300), 289)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record, torch.autocast("cuda", dtype):
        block(features, 2, tuple(part.cuda() for part in memory)).sum().backward()
    names = {event.key for event in record.key_averages()}
    assert not {name for name in names if "softmax" in name or "attention_math" in name}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_what_the_cpu_finds():
    block, features = block_of(16), random(4, 16, 17, 17)
    memory = memory_of(torch.arange(16) < torch.tensor([[16], [0], [5]]), 289)
    expected = block(features, 2, memory)
    on_gpu = block.cuda()(features.cuda(), 2, tuple(tensor.cuda() for tensor in memory)).cpu()
    torch.testing.assert_close(on_gpu, expected, atol=1e-4, rtol=1e-4)


# The memory


def numbered(*numbers):
    """One image whose channels hold their number everywhere, float [1, C, 2]."""
    return torch.tensor(numbers, dtype=torch.float32)[None, :, None].expand(1, -1, 2)


def slots_of(memory):
    return [
        [int(v[0]) if there else None for v, there in zip(*row, strict=True)]
        for row in zip(*memory.content(), strict=True)
    ]


def test_a_class_keeps_its_last_channels_in_its_own_slots():
    memory = SemanticMemory(num_classes=2, num_channels=3, num_tokens=2)
    assert slots_of(memory) == [[None] * 3, [None] * 3]

    memory.enqueue(numbered(1, 2, 3), torch.tensor([[0, 1, 0]]))
    assert slots_of(memory) == [[1, 3, None], [2, None, None]]
    assert memory.pointer.tolist() == [2, 1]

    memory.enqueue(numbered(4, 5, 6), torch.tensor([[0, 0, -1]]))  # the second one wraps around to the first slot
    assert slots_of(memory) == [[5, 3, 4], [2, None, None]]
    assert memory.pointer.tolist() == [1, 1]

    three_images = torch.cat([numbered(7, 8, 9), numbered(10, 11, 12), numbered(13, 14, 15)])
    memory.enqueue(three_images, torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 1]]))  # eight for three slots
    assert slots_of(memory) == [[5, 11, 4], [13, 14, 15]]
    assert memory.pointer.tolist() == [2, 0]


def test_channels_without_a_class_leave_the_memory_as_it_is():
    memory = SemanticMemory(2, 3, 2)
    memory.enqueue(numbered(1, 2, 3), torch.full((1, 3), -1))
    assert slots_of(memory) == [[None] * 3, [None] * 3]
    assert memory.pointer.tolist() == [0, 0]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.data())
def test_is_the_literal_queue_whatever_comes(num_classes, num_channels, num_tokens, data):
    memory, literal = SemanticMemory(num_classes, num_channels, num_tokens), LiteralMemory(num_classes, num_channels)
    one = st.lists(st.integers(-1, num_classes - 1), min_size=num_channels, max_size=num_channels)
    for seed, groups in enumerate(data.draw(st.lists(st.lists(one, min_size=1, max_size=4), max_size=4))):
        features = random(len(groups), num_channels, num_tokens, seed=seed)
        memory.enqueue(features, torch.tensor(groups))
        literal.enqueue(features, torch.tensor(groups))
    for of, slot in itertools.product(range(num_classes), range(num_channels)):
        expected = literal.slots[of][slot]
        assert memory.is_filled[of, slot] == (expected is not None)
        assert expected is None or torch.equal(memory.vectors[of, slot], expected)
    assert memory.pointer.tolist() == literal.pointers


def test_the_memory_goes_through_a_state_dict():
    memory, again = SemanticMemory(2, 3, 4), SemanticMemory(2, 3, 4)
    memory.enqueue(random(2, 3, 4), torch.tensor([[0, 1, 0], [1, 1, 1]]))
    again.load_state_dict(memory.state_dict())
    assert not list(memory.parameters())
    assert set(memory.state_dict()) == {"vectors", "is_filled", "pointer"}
    for one in (memory, again):
        one.enqueue(random(1, 3, 4, seed=1), torch.tensor([[1, 0, 1]]))
    assert all(torch.equal(*pair) for pair in zip(memory.buffers(), again.buffers(), strict=True))


def test_the_memory_starts_empty():
    vectors, is_filled = SemanticMemory(3, 4, 5).content()
    assert not is_filled.any()
    assert not vectors.any()


IMAGES, GROUPS = random(4, 3, 5, seed=7), torch.tensor([[0, 1, 1], [0, 0, -1], [1, 1, 0], [0, 0, 1]])


def enqueue_own_images(rank, folder):
    """What one of two processes does: a step with half of the images, two steps in all."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    memory = SemanticMemory(2, 3, 5)
    for _ in range(2):
        mine = slice(2 * rank, 2 * rank + 2)
        memory.enqueue(IMAGES[mine], GROUPS[mine])
    torch.save(memory.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_every_process_remembers_what_one_with_the_whole_batch_would(tmp_path):
    call_in_two_processes(__file__, "enqueue_own_images", tmp_path)
    alone = SemanticMemory(2, 3, 5)
    for _ in range(2):
        alone.enqueue(IMAGES, GROUPS)
    for rank in range(2):
        state = torch.load(tmp_path / f"{rank}.pt")
        assert all(torch.equal(state[name], value) for name, value in alone.state_dict().items())


# Grouping


def test_a_channel_joins_the_class_whose_map_it_follows():
    logits = torch.tensor([[[[9.0, 0.0]], [[0.0, 0.5]]]])  # class 0 is on the left, class 1 on the right
    features = torch.tensor([[[[1.0, 0.2]], [[0.1, 4.0]], [[-1.0, 0.1]], [[-1.0, -20.0]]]])
    # cosines of the last channel: -1/20 with the left, -20/20 with the right
    assert channel_groups(logits, features).tolist() == [[0, 1, 1, 0]]


def test_logits_are_brought_to_the_size_of_the_features():
    small = random(2, 3, 4, 5)
    large = small.repeat_interleave(2, dim=2).repeat_interleave(
        2, dim=3
    )  # the middle of four equal values is their value
    features = random(2, 6, 4, 5, seed=1)
    assert torch.equal(channel_groups(large, features), channel_groups(small, features))


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_groups_are_those_of_the_largest_cosine(size, num_classes, num_images, seed):
    num_channels, *sides = size
    logits = random(num_images, num_classes, *sides, seed=seed)
    features = random(num_images, num_channels, *sides, seed=seed + 100)
    assert torch.equal(channel_groups(logits, features), literal_groups(logits, features))
