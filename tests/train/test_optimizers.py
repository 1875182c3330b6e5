import pytest
import torch

from train.optimizers import SGD, AdamW


def trained(kind, **options):
    """State of a network and of its optimizer after a few steps, one of them after a round trip of the state."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 2, 1))
    first, *others = network
    groups = [{"params": first.parameters(), "weight_decay": 0.1}]
    optimizer = kind(groups, lr=0.01, **options)
    optimizer.add_param_group({"params": [p for layer in others for p in layer.parameters()], "lr": 0.02})
    for step in range(4):
        optimizer.zero_grad()
        network(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        if step == 1:
            optimizer.load_state_dict(optimizer.state_dict())
    return network.state_dict(), optimizer.state_dict()


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (SGD, torch.optim.SGD, {"momentum": 0.9, "fused": True}),
        (AdamW, torch.optim.AdamW, {"fused": True}),
        (AdamW, torch.optim.AdamW, {}),
    ],
)
def test_steps_are_those_of_torch(ours, theirs, options):
    (weights, state), (expected, expected_state) = trained(ours, **options), trained(theirs, **options)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert state["param_groups"] == expected_state["param_groups"]
    for index, values in expected_state["state"].items():
        assert all(torch.equal(state["state"][index][name], value) for name, value in values.items())
