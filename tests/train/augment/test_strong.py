import colorsys
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter
from scipy.ndimage import gaussian_filter

from train.augment import Photometric, draw_photometric, strong_views
from train.augment.strong import change_colours, turn_hue

torch.set_num_threads(1)
NOTHING = Photometric(1.0, 1.0, 1.0, 0.0, (0, 1, 2, 3), False, False, 0.0)
ENHANCERS = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast, "saturation": ImageEnhance.Color}
seeds = st.integers(0, 10_000)


def noise(num=1, side=24, seed=0):
    """uint8 [num, 3, side, side + 5]"""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (num, 3, side, side + 5), dtype=np.uint8))


def photo(side=64, seed=0):
    """Smooth colours with some noise, like a photograph: uint8 [1, 3, side, side]"""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)).astype(int)
    grainy = np.clip(smooth + rng.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)
    return torch.from_numpy(grainy).permute(2, 0, 1)[None]


def to_pillow(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def levels_apart(view, pillow):
    return np.abs(view.permute(1, 2, 0).numpy().astype(int) - np.asarray(pillow).astype(int))


def turned_by_pillow(image, hue):
    """The rotation that torchvision applies to images of Pillow, whose hue is one byte with 255 steps."""
    channels = list(image.convert("HSV").split())
    channels[0] = channels[0].point(lambda step: (step + int(hue * 255)) % 256)
    return Image.merge("HSV", channels).convert("RGB")


def changed_by_pillow(image, draw):
    for step in draw.order if draw.jitter else ():
        if step == 3:
            image = turned_by_pillow(image, draw.hue)
        else:
            image = list(ENHANCERS.values())[step](image).enhance(draw[step])
    if draw.grey:
        image = image.convert("L").convert("RGB")
    return image.filter(ImageFilter.GaussianBlur(draw.sigma)) if draw.sigma else image


def test_draws_follow_their_distributions():
    draws = [draw_photometric(random.Random(seed)) for seed in range(6000)]
    for name in ENHANCERS:
        factors = [getattr(draw, name) for draw in draws]
        assert (min(factors), max(factors)) == pytest.approx((0.5, 1.5), abs=0.01)
        assert np.mean(factors) == pytest.approx(1.0, abs=0.02)
    hues = [draw.hue for draw in draws]
    assert (min(hues), max(hues), np.mean(hues)) == pytest.approx((-0.25, 0.25, 0.0), abs=0.01)
    sigmas = [draw.sigma for draw in draws if draw.sigma]
    assert (min(sigmas), max(sigmas)) == pytest.approx((0.1, 2.0), abs=0.01)
    assert np.mean(sigmas) == pytest.approx(1.05, abs=0.04)
    fractions = np.mean([(draw.jitter, draw.grey, draw.sigma > 0) for draw in draws], axis=0)
    assert fractions == pytest.approx([0.8, 0.2, 0.5], abs=0.025)


def test_every_order_of_the_jitter_is_equally_frequent():
    orders = [draw_photometric(random.Random(seed)).order for seed in range(6000)]
    counts = {order: orders.count(order) for order in set(orders)}
    assert len(counts) == 24
    assert all(sorted(order) == [0, 1, 2, 3] for order in counts)
    assert min(counts.values()) > 180  # 250 +- 15.5


def test_a_draw_takes_the_same_number_of_random_values_with_and_without_each_change():
    following = {}
    for seed in range(40):
        rng = random.Random(seed)
        draw = draw_photometric(rng)
        again = random.Random(seed)
        [again.random() for _ in range(4)], again.sample(range(4), 4), [again.random() for _ in range(4)]
        following[draw.jitter, draw.grey, draw.sigma > 0] = rng.random() == again.random()
    assert len(following) > 4
    assert all(following.values())


@pytest.mark.parametrize("jitter", [False, True])
def test_factors_of_one_and_no_rotation_change_nothing(jitter):
    images = noise(3)
    assert torch.equal(strong_views(images, [NOTHING._replace(jitter=jitter)] * 3), images)


def test_without_jitter_its_values_do_not_matter():
    images = noise()
    assert torch.equal(strong_views(images, [NOTHING._replace(brightness=0.5, hue=0.2)]), images)


@pytest.mark.parametrize("name", list(ENHANCERS))
@pytest.mark.parametrize("factor", [0.5, 0.83, 1.27, 1.5])
def test_factors_act_as_in_pillow(name, factor):
    image = noise(seed=3)
    view = strong_views(image, [NOTHING._replace(jitter=True, **{name: factor})])[0]
    assert levels_apart(view, ENHANCERS[name](to_pillow(image[0])).enhance(factor)).max() <= 1


@pytest.mark.parametrize(("levels", "mean"), [((10, 10, 10, 11), 10), ((10, 10, 11, 11), 11), ((10, 11, 11, 11), 11)])
def test_without_contrast_an_image_is_its_mean_grey_rounded(levels, mean):
    image = torch.tensor(levels, dtype=torch.uint8).reshape(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert (strong_views(image, [NOTHING._replace(jitter=True, contrast=0.0)]) == mean).all()


def test_grey_is_bit_identical_to_pillows():
    image = noise(side=200)
    view = strong_views(image, [NOTHING._replace(grey=True)])[0]
    assert levels_apart(view, to_pillow(image[0]).convert("L").convert("RGB")).max() == 0


@settings(max_examples=40, deadline=None)
@given(seeds, st.floats(-0.5, 0.5))
def test_rotates_the_hue_and_keeps_value_and_saturation(seed, turn):
    image = noise(1, 4, seed).float()
    pixels = image[0].flatten(1).T.tolist()
    turn_hue(image, [turn])
    for before, after in zip(pixels, image[0].flatten(1).T.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value), abs=1e-3)


def test_pure_colours_turn_into_each_other():
    red, green, blue = torch.eye(3)[:, None, :, None, None] * 255
    turned = torch.cat([red, red, green])
    turn_hue(turned, [1 / 3, -1 / 3, 1 / 3])
    assert torch.allclose(turned, torch.cat([green, blue, blue]), atol=1e-3)


def test_greys_have_no_hue_to_rotate():
    image = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(strong_views(image, [NOTHING._replace(jitter=True, hue=0.2)]), image)


@pytest.mark.parametrize("steps", [-60, -7, 20, 63])
def test_rotates_the_hue_as_pillow_does_up_to_its_rounding(steps):
    # One step of Pillow's hue is up to 6 levels of a channel, and Pillow rounds hue and saturation down.
    image = photo()
    view = strong_views(image, [NOTHING._replace(jitter=True, hue=(steps + 0.01 * np.sign(steps)) / 255)])[0]
    apart = levels_apart(view, turned_by_pillow(to_pillow(image[0]), (steps + 0.01 * np.sign(steps)) / 255))
    assert apart.mean() < 2
    assert apart.max() <= 12


@pytest.mark.parametrize("sigma", [0.1, 0.4, 1.0, 1.7, 2.0])
def test_blurs_as_a_gaussian_filter_does(sigma):
    image = noise(side=30)
    view = strong_views(image, [NOTHING._replace(sigma=sigma)])[0]
    # a radius of four sigmas; ours is three
    wanted = gaussian_filter(image[0].float().numpy(), sigma, axes=(1, 2), mode="mirror", truncate=4)
    assert np.abs(view.numpy() - wanted).max() < 0.5 + 0.7
    narrow = gaussian_filter(
        image[0].float().numpy(), sigma, axes=(1, 2), mode="mirror", radius=int(np.ceil(3 * sigma))
    )
    assert np.abs(view.numpy() - narrow).max() < 0.5 + 1e-3


def test_blurs_as_pillow_does():
    # Pillow approximates the Gaussian by three box filters and repeats the border.
    for sigma in (0.3, 1.0, 2.0):
        image = photo()
        view = strong_views(image, [NOTHING._replace(sigma=sigma)])[0]
        apart = levels_apart(view, to_pillow(image[0]).filter(ImageFilter.GaussianBlur(sigma)))
        assert apart.mean() < 1
        assert apart.max() <= 6


def test_an_image_smaller_than_the_kernel_is_blurred_too():
    image = torch.full((1, 3, 2, 1), 77, dtype=torch.uint8)
    assert torch.equal(strong_views(image, [NOTHING._replace(sigma=2.0)]), image)


def test_all_changes_together_stay_close_to_pillow():
    apart = []
    for seed in range(100):
        image, draw = photo(seed=seed), draw_photometric(random.Random(seed))
        view = strong_views(image, [draw])[0]
        apart.append(levels_apart(view, changed_by_pillow(to_pillow(image[0]), draw)).mean())
    assert np.mean(apart) < 2
    assert max(apart) < 4


def test_the_order_of_the_jitter_matters():
    image = photo()
    draw = NOTHING._replace(jitter=True, brightness=1.5, contrast=0.5)
    views = [strong_views(image, [draw._replace(order=order)])[0] for order in ((0, 1, 2, 3), (1, 0, 2, 3))]
    wanted = [changed_by_pillow(to_pillow(image[0]), draw._replace(order=order)) for order in ((0, 1), (1, 0))]
    assert [levels_apart(view, want).max() <= 2 for view, want in zip(views, wanted, strict=True)] == [True, True]
    assert levels_apart(views[0], wanted[1]).mean() > 10


@settings(max_examples=25, deadline=None)
@given(st.lists(seeds, min_size=1, max_size=5))
def test_a_batch_gives_the_same_bits_as_its_images_one_by_one(batch_seeds):
    images = noise(len(batch_seeds), seed=batch_seeds[0])
    draws = [draw_photometric(random.Random(seed)) for seed in batch_seeds]
    before = images.clone()
    views = strong_views(images, draws)
    assert views.dtype == torch.uint8
    assert torch.equal(images, before)
    together = change_colours(images.float(), draws).round()  # as on a GPU
    for number, draw in enumerate(draws):
        alone = strong_views(images[number : number + 1], [draw])[0]
        assert torch.equal(views[number], alone)
        assert torch.equal(together[number], alone.float())


def test_no_step_waits_for_a_value_of_the_device():
    draws = [draw_photometric(random.Random(seed)) for seed in range(16)]
    assert strong_views(noise(16).to("meta"), draws).shape == (16, 3, 24, 29)  # a device without values


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_views_as_a_cpu():
    images, draws = noise(32), [draw_photometric(random.Random(seed)) for seed in range(32)]
    on_gpu = strong_views(images.cuda(), draws).cpu()
    assert (strong_views(images, draws).int() - on_gpu.int()).abs().max() <= 1
    assert torch.equal(on_gpu[5:7], strong_views(images[5:7].cuda(), draws[5:7]).cpu())
