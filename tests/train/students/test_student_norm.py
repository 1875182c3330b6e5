import pytest
import torch
from torch import distributed as dist
from torch import nn
from two_processes import call_in_two_processes

from train.students.norm import BatchNorm2d, share_statistics

SHAPES = [(3, 5, 4, 6), (2, 5, 3, 3)]  # of two processes; parts need not be alike


def batches():
    generator = torch.Generator().manual_seed(0)
    return [10 + 3 * torch.randn(shape, generator=generator) for shape in SHAPES]


def norm(**kwargs):
    generator = torch.Generator().manual_seed(1)
    module = BatchNorm2d(5, **kwargs)
    module.load_state_dict(module.state_dict() | {n: torch.rand(5, generator=generator) for n in ("weight", "bias")})
    return module


def passed(module, x, dtype=torch.float32):
    """Output, gradients of input and parameters, and the running statistics after one pass in training mode."""
    x = x.detach().clone().to(dtype).requires_grad_()
    y = module.train()(x)
    (y.float() ** 3).sum().backward()
    return {
        "dtype": y.dtype,
        "y": y.detach(),
        "x": x.grad,
        "weight": module.weight.grad,
        "bias": module.bias.grad,
        "mean": module.running_mean,
        "variance": module.running_var,
        "batches": module.num_batches_tracked,
    }


def one_of_two(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    x = batches()[rank]
    results = {"float32": passed(norm(), x), "average": passed(norm(momentum=None), x)}
    with torch.autocast("cpu", torch.bfloat16):
        results["bfloat16"] = passed(norm(), x, torch.bfloat16)
    results["evaluation"] = norm().eval()(x).detach()
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    call_in_two_processes(__file__, "one_of_two", folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def whole(momentum=0.1):
    """torch's own norm over the values of both processes, as one image of one row."""
    module = nn.BatchNorm2d(5, momentum=momentum)
    module.load_state_dict(norm().state_dict())
    rows = torch.cat([x.transpose(0, 1).flatten(1) for x in batches()], dim=1)  # [D, N]
    return passed(module, rows[None, :, None])


def row(values):
    return torch.cat([x.transpose(0, 1).flatten(1) for x in values], dim=1)[None, :, None]


def close(one, other, tolerance=1e-5):
    torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


@pytest.mark.slow
def test_two_processes_normalise_as_one_that_has_both_batches(two):
    expected, results = whole(), [result["float32"] for result in two]
    close(row([r["y"] for r in results]), expected["y"])
    close(row([r["x"] for r in results]), expected["x"], 1e-4)
    for name in ("weight", "bias"):
        close(results[0][name] + results[1][name], expected[name], 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "momentum"), [("float32", 0.1), ("average", None)])
def test_running_statistics_are_those_of_the_whole_batch_in_every_process(two, kind, momentum):
    expected = whole(momentum)
    for result in two:
        assert result[kind]["batches"] == 1
        for name in ("mean", "variance"):
            close(result[kind][name], expected[name])
            assert torch.equal(result[kind][name], two[0][kind][name])


@pytest.mark.slow
def test_statistics_are_single_precision_whatever_autocast_says(two):
    for result in two:
        half, single = result["bfloat16"], result["float32"]
        assert half["dtype"] == torch.bfloat16
        assert half["mean"].dtype == torch.float32
        close(half["mean"], single["mean"], 1e-3)
        close(half["y"].float(), single["y"], 3e-2)


@pytest.mark.slow
def test_evaluation_does_not_wait_for_others(two):
    for result, x in zip(two, batches(), strict=True):
        close(result["evaluation"], norm().eval()(x).detach())


def test_alone_it_is_torchs_batch_norm_bit_for_bit():
    x = batches()[0]
    theirs = nn.BatchNorm2d(5)
    theirs.load_state_dict(norm().state_dict())
    results, expected = passed(norm(), x), passed(theirs, x)
    assert all(torch.equal(results[name], expected[name]) for name in expected if name != "dtype")


def test_takes_the_place_of_every_batch_norm_and_keeps_names_and_values():
    network = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.Sequential(nn.BatchNorm2d(5)))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    share_statistics(network)
    assert [type(m) for m in (network[1], network[2][0])] == [BatchNorm2d, BatchNorm2d]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert list(network.state_dict()) == list(before)
