"""Online hard example mining: which labeled pixels teach, against the published criterion written out literally."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import distributed as dist
from torch.nn import functional
from two_processes import call_in_two_processes

from pipeline.settings import TrainSettings
from train.hard_pixels import HardPixels, hardness_limit
from train.losses import num_with_class, true_class_probabilities
from train.machine.processes import summed
from train.objective import Objective, Term, hard_objective, num_pixels, term_losses

INF = math.inf


@pytest.mark.parametrize(
    ("threshold", "min_kept", "limit"),
    [
        (0.7, 2, 0.7),  # three are below the threshold, which is more than two
        (0.7, 4, 0.8),  # the fourth hardest
        (0.1, 1, 0.2),
        (0.7, 0, 0.7),
        (0.7, 5, 0.9),  # as many as there are
        (0.7, 6, INF),  # fewer than asked for: all of them
        (0.7, 99, INF),  # more than there are places
    ],
)
def test_the_limit_is_the_threshold_or_the_probability_of_the_last_pixel_that_must_be_kept(threshold, min_kept, limit):
    probabilities = torch.tensor([0.9, INF, 0.2, 0.5, 0.3, 0.8, INF])
    assert hardness_limit(probabilities, HardPixels(threshold, min_kept)).item() == pytest.approx(limit)


def term_of(name, logits, targets, **more):
    images = torch.zeros((len(logits), 3, *targets.shape[-2:]), dtype=torch.uint8)
    return Term(name, images, targets, range(len(logits)), **{"num_pixels": num_with_class(targets), **more})


def literal_ohem(logits, targets, threshold, min_kept):
    """The published criterion (ProbOhemCrossEntropy2d), pixel by pixel in plain Python; mean over what is kept."""
    pixels = []
    for image, target in zip(logits.tolist(), targets.tolist(), strict=True):
        for row, line in enumerate(target):
            for column, true_class in enumerate(line):
                if true_class != 255:
                    values = [plane[row][column] for plane in image]
                    total = sum(math.exp(value) for value in values)
                    pixels.append(math.exp(values[true_class]) / total)
    if min_kept <= len(pixels) and pixels:
        limit = threshold
        if min_kept > 0:
            limit = max(limit, sorted(pixels)[min_kept - 1])
        pixels = [p for p in pixels if p <= limit]
    return sum(-math.log(p) for p in pixels) / max(len(pixels), 1), len(pixels)


@hypothesis_settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.integers(0, 40), st.sampled_from([0.3, 0.7, 1.0]), st.integers(0, 99))
def test_the_loss_is_that_of_the_published_criterion(batch, min_kept, threshold, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn((batch, 3, 3, 4), generator=generator, dtype=torch.float64).float()
    targets = torch.randint(0, 4, (batch, 3, 4), generator=generator)
    targets = torch.where(targets == 3, 255, targets).to(torch.uint8)
    objective = Objective([term_of("labeled", logits, targets)], hard=HardPixels(threshold, min_kept))
    hard = hard_objective(objective, logits)
    (loss,) = term_losses(hard, logits, num_pixels([hard])).tolist()
    expected, kept = literal_ohem(logits, targets, threshold, min_kept)
    assert num_pixels([hard]).tolist() == [kept]
    assert loss == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("is_pooled", [False, True])
def test_only_labeled_pixels_are_mined_and_means_count_what_is_left(is_pooled):
    """Two labeled pixels, one certain and one not; two others of which one is certain and stays."""
    certain, unsure = torch.tensor([9.0, 0.0]), torch.tensor([0.0, 0.0])
    logits = torch.stack([certain, unsure]).T.reshape(1, 2, 1, 2).repeat(2, 1, 1, 1)
    targets = torch.zeros((1, 1, 2), dtype=torch.uint8)
    terms = [term_of("labeled", logits[:1], targets), term_of("unlabeled", logits[1:], targets)]
    objective = Objective(terms, is_pooled=is_pooled, hard=HardPixels(0.7, 1))
    hard = hard_objective(objective, logits)
    assert [term.targets.tolist() for term in hard.terms] == [[[[255, 0]]], [[[0, 0]]]]
    assert num_pixels([hard]).tolist() == ([3, 3] if is_pooled else [1, 2])
    loss_of_easy, loss_of_hard = math.log(1 + math.exp(-9)), math.log(2)
    divisors = [3, 3] if is_pooled else [1, 2]
    losses = term_losses(hard, logits, num_pixels([hard])).tolist()
    assert losses == pytest.approx([loss_of_hard / divisors[0], (loss_of_easy + loss_of_hard) / divisors[1]], rel=1e-4)


def test_a_probability_that_is_not_a_number_counts_as_hard_so_that_the_loss_shows_it():
    logits = torch.full((1, 2, 1, 2), math.nan)
    targets = torch.zeros((1, 1, 2), dtype=torch.uint8)
    hard = hard_objective(Objective([term_of("labeled", logits, targets)], hard=HardPixels(0.7, 1)), logits)
    assert term_losses(hard, logits, num_pixels([hard])).isnan().all()


def test_probabilities_are_up_sampled_like_the_loss():
    logits, targets = torch.randn(2, 4, 3, 5), torch.randint(0, 4, (2, 7, 9), dtype=torch.uint8)
    targets[0, :2] = 255
    fine = functional.interpolate(logits, size=(7, 9), mode="bilinear", align_corners=False).softmax(dim=1)
    expected = fine.gather(1, targets.masked_fill(targets == 255, 0).long()[:, None])[:, 0]
    expected[targets == 255] = INF
    torch.testing.assert_close(true_class_probabilities(logits, targets), expected, atol=1e-6, rtol=1e-5)


def whole_batch():
    """Logits and targets of six images, of which two and then one are labeled in the halves of two processes."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 3, (6, 4, 5), generator=generator).to(torch.uint8)
    return torch.randn((6, 3, 4, 5), generator=generator), targets.masked_fill(targets == 2, 255)


def objective_of(logits, targets, num_labeled):
    sizes = (num_labeled, len(logits) - num_labeled)
    named = zip(("labeled", "unlabeled"), logits.split(sizes), targets.split(sizes), strict=True)
    return Objective([term_of(*one) for one in named], is_pooled=True, hard=HardPixels(0.01, 15))


def check_share_of_hard_pixels(rank, meeting_place, expected, num):
    """In one of two processes: its labeled images get the targets that one process with all of them gives."""
    dist.init_process_group("gloo", f"file://{meeting_place}", rank=rank, world_size=2)
    logits, targets = whole_batch()
    own = slice(0, 3) if rank == 0 else slice(3, 6)
    num_labeled = 2 - rank
    hard = hard_objective(objective_of(logits[own], targets[own], num_labeled), logits[own])
    assert torch.equal(hard.terms[0].targets, expected[:2] if rank == 0 else expected[2:])
    assert summed(num_pixels([hard])).tolist() == num
    dist.destroy_process_group()


@pytest.mark.slow
def test_the_pixels_of_all_processes_are_compared(tmp_path):
    logits, targets = whole_batch()
    order = torch.tensor([0, 1, 3, 2, 4, 5])  # labeled ones first
    hard = hard_objective(objective_of(logits[order], targets[order], 3), logits[order])
    expected, num = hard.terms[0].targets, num_pixels([hard]).tolist()
    assert num_with_class(expected) == 15
    call_in_two_processes(__file__, "check_share_of_hard_pixels", str(tmp_path / "meeting"), expected, num)


def test_parts_of_a_batch_are_refused_because_their_pixels_must_be_compared():
    with pytest.raises(ValueError, match="splits the step; set accumulate: 1"):
        TrainSettings(labeled_loss="ohem", accumulate=2)
