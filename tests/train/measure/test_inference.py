import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pixel_students import FormulaStudent, of_colour, of_place

from pipeline.settings import EvaluateSettings
from pipeline.tiles import Window
from train.losses import upsampled
from train.measure.inference import (
    batches,
    class_scores,
    predicted_classes,
    resized,
    score_bands,
    spans,
    windows,
)
from train.students import class_names_of, random_network, save_network


def random_image(height, width, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (1, 3, height, width), dtype=np.uint8))


def test_the_last_window_moves_inward_and_keeps_its_size():
    assert spans(10, 4, 3, is_shifted=True) == [(0, 4), (3, 4), (6, 4)]
    assert spans(11, 4, 3, is_shifted=True) == [(0, 4), (3, 4), (6, 4), (7, 4)]
    assert spans(4, 4, 3, is_shifted=True) == [(0, 4)]


def test_truncated_windows_begin_every_stride_and_end_with_the_image():
    assert spans(10, 4, 3, is_shifted=False) == [(0, 4), (3, 4), (6, 4), (9, 1)]
    assert spans(3, 4, 2, is_shifted=False) == [(0, 3), (2, 1)]


def test_cityscapes_has_eight_windows_of_one_size_or_of_four_when_truncated():
    shifted = windows((1024, 2048), 801, 534, is_shifted=True)
    assert [(w.top, w.left) for w in shifted] == [(top, left) for top in (0, 223) for left in (0, 534, 1068, 1247)]
    assert {(w.height, w.width) for w in shifted} == {(801, 801)}
    truncated = windows((1024, 2048), 801, 534, is_shifted=False)
    assert {(w.height, w.width) for w in truncated} == {(801, 801), (801, 446), (490, 801), (490, 446)}


@given(st.integers(1, 40), st.integers(1, 40), st.data(), st.booleans())
def test_every_pixel_is_in_a_window_and_no_window_leaves_the_image(length, side, data, is_shifted):
    stride = data.draw(st.integers(1, side))
    length = max(length, side) if is_shifted else length
    seen = np.zeros(length, int)
    for start, size in spans(length, side, stride, is_shifted):
        assert start >= 0
        assert start + size <= length
        assert size == side or not is_shifted
        seen[start : start + size] += 1
    assert seen.min() >= 1


def test_a_batch_holds_windows_of_one_shape_and_each_window_comes_once():
    all_windows = windows((10, 7), 4, 3, is_shifted=False)
    groups = list(batches(all_windows, 3))
    assert sorted(window for group in groups for window in group) == sorted(all_windows)
    assert all(len({(w.height, w.width) for w in group}) == 1 and len(group) <= 3 for group in groups)


def test_a_window_is_a_rectangle_of_the_last_two_axes():
    assert Window(1, 2, 2, 1).of(torch.arange(12).reshape(1, 3, 4)).tolist() == [[[6], [10]]]


@pytest.mark.parametrize("kind", ["shifted", "truncated"])
@pytest.mark.parametrize("size", [(50, 70), (32, 32), (20, 90), (9, 7)])
def test_windows_change_nothing_for_a_student_whose_predictions_depend_on_single_pixels(size, kind):
    image = random_image(*size)
    whole = class_scores(FormulaStudent(of_colour), image, EvaluateSettings())
    slid = class_scores(FormulaStudent(of_colour), image, EvaluateSettings(window=32, stride=21, windows=kind))
    torch.testing.assert_close(slid, whole)
    assert slid.dtype == torch.float32
    assert slid.shape == (1, 3, *size)


def test_a_pixel_gets_the_mean_of_the_probabilities_of_the_windows_that_contain_it():
    image = random_image(40, 60)
    scores = class_scores(FormulaStudent(of_place), image, EvaluateSettings(window=32, batch_size=3))
    total, count = np.zeros((2, 40, 60)), np.zeros((40, 60))
    for top in (0, 8):
        for left in (0, 21, 28):  # a stride of two thirds of 32
            here = np.s_[..., top : top + 32, left : left + 32]
            logits = of_place(image[here])[0].double().numpy()
            total[here] += np.exp(logits) / np.exp(logits).sum(axis=0)
            count[here] += 1
    np.testing.assert_allclose(scores[0].numpy(), total / count, atol=1e-6)
    assert count.max() == 6


def test_the_batch_size_of_windows_does_not_matter():
    image = random_image(70, 50)
    one, many = (
        class_scores(FormulaStudent(of_place), image, EvaluateSettings(window=32, windows="truncated", batch_size=size))
        for size in (1, 100)
    )
    torch.testing.assert_close(one, many)


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("kind", ["shifted", "truncated"])
def test_bands_are_the_sums_over_all_windows_to_the_last_bit_and_no_higher_than_a_window(kind, flips):
    image, student = random_image(75, 60), FormulaStudent(of_place)
    settings = EvaluateSettings(window=32, stride=20, windows=kind, flips=flips, batch_size=1)
    bands = list(score_bands(student, image, settings))
    total = torch.zeros(1, 2, 75, 60)
    for version in (image, image.flip(-1))[: 1 + flips]:
        sums, count = torch.zeros(1, 2, 75, 60), torch.zeros(75, 60)
        for window in windows((75, 60), 32, 20, kind == "shifted"):
            window.of(sums).add_(of_place(window.of(version)).softmax(dim=1))
            window.of(count).add_(1)
        total += (sums / count) if version is image else (sums / count).flip(-1)
    assert torch.cat(bands, dim=2).equal(total / (1 + flips))
    assert len(bands) > 2
    assert max(band.shape[2] for band in bands) <= 32


@pytest.mark.parametrize("kind", ["shifted", "truncated"])
def test_bands_of_several_scales_are_the_mean_of_their_maps_and_no_higher_than_a_window(kind):
    image, scales = random_image(75, 60), [0.75, 1.0, 1.5]
    settings = EvaluateSettings(window=32, stride=20, windows=kind, flips=True, scales=scales)
    bands = list(score_bands(FormulaStudent(of_place), image, settings))
    total = torch.zeros(1, 2, 75, 60)
    for scale in scales:
        for is_mirrored in (False, True):
            version = resized(image, scale)
            version = version.flip(-1) if is_mirrored else version
            alone = EvaluateSettings(window=32, stride=20, windows=kind)
            scores = class_scores(FormulaStudent(of_place), version, alone)
            total += upsampled(scores.flip(-1) if is_mirrored else scores, (75, 60))
    torch.testing.assert_close(torch.cat(bands, dim=2), total / 6, atol=1e-5, rtol=0)
    assert max(band.shape[2] for band in bands) <= 32


def test_a_student_gets_windows_of_one_size_even_from_a_smaller_image():
    student = FormulaStudent(of_colour)
    class_scores(student, random_image(20, 40), EvaluateSettings(window=32, stride=8, batch_size=1))
    assert set(student.seen) == {(1, 3, 32, 32)}
    assert len(student.seen) == 2


def test_flips_are_the_mean_of_the_image_and_its_mirror_image_turned_back():
    image = random_image(3, 4)
    scores = class_scores(FormulaStudent(of_place), image, EvaluateSettings(flips=True))
    straight = of_place(image).softmax(dim=1)
    mirrored = of_place(image.flip(-1)).softmax(dim=1).flip(-1)
    torch.testing.assert_close(scores, (straight + mirrored) / 2)
    assert not torch.allclose(straight, mirrored)


def test_scales_and_flips_are_averaged_over_all_combinations():
    student = FormulaStudent(of_colour)
    scores = class_scores(student, random_image(6, 8), EvaluateSettings(flips=True, scales=[0.5, 1.0, 2.0]))
    assert student.seen == [(1, 3, *size) for size in [(3, 4), (6, 8), (12, 16)] for _ in range(2)]
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(1, 6, 8))


def test_an_image_of_one_colour_has_the_same_scores_at_all_scales():
    image = torch.tensor([200, 100, 50], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 6, 8)
    expected = torch.tensor([4.0, 2.0, 1.0]).softmax(dim=0)[None, :, None, None].expand(1, 3, 6, 8)
    torch.testing.assert_close(
        class_scores(FormulaStudent(of_colour), image, EvaluateSettings(scales=[0.75, 1.5])), expected
    )


def test_resizing_keeps_bytes_and_halves_by_averaging():
    image = torch.tensor([[10, 20], [30, 41]], dtype=torch.uint8).expand(1, 3, 2, 2)
    half = resized(image, 0.5)
    assert half.dtype == torch.uint8
    assert half.flatten().tolist() == [25, 25, 25]
    assert resized(image, 1.0) is image


@pytest.mark.parametrize("options", [{}, {"window": 32}, {"flips": True}, {"scales": [0.5, 1.0]}])
def test_the_predicted_class_is_the_most_probable(options):
    image, settings = random_image(33, 40), EvaluateSettings(**options)
    classes = predicted_classes(FormulaStudent(of_place), image, settings)
    assert classes.dtype == torch.uint8
    assert classes.equal(class_scores(FormulaStudent(of_place), image, settings).argmax(dim=1).to(torch.uint8))


@pytest.mark.parametrize("options", [{"stride": 8}, {"stride": 40, "window": 32}])
def test_a_stride_that_would_leave_gaps_is_refused(options):
    with pytest.raises(ValueError, match="lower stride to the window or less"):
        EvaluateSettings(**options)


@pytest.mark.parametrize("student", ["tiny", "dinov2-s"])
def test_class_names_are_those_of_the_checkpoint_in_order(student, tmp_path):
    names = ["sky", "road", "car"]
    save_network(random_network(student, names), tmp_path)
    assert class_names_of(tmp_path) == names
