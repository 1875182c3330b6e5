"""Texts and maps: each step against its formula, and what must not change a result."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.seem import SeemError
from pipeline.seem.maps import network_input, normalised, plan_sizes
from pipeline.seem.mask_decoder import downsampled_conv
from pipeline.seem.prompts import TEMPLATES, fill_templates
from pipeline.seem.seem import class_scores
from pipeline.seem.text_encoder import encode_texts

IMAGES = np.random.default_rng(1).integers(0, 256, (2, 50, 67, 3), dtype=np.uint8)
NAMES = ["cat", "dog", "sea lion"]


def close(found, expected, tolerance=1e-5):
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    return found.shape == expected.shape and (found - expected).abs().max() <= tolerance * expected.abs().max()


# --- the two short cuts of the mask decoder ------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    stride=st.sampled_from([2, 4, 8]), rows=st.integers(1, 4), columns=st.integers(1, 4),
    kernel=st.sampled_from([1, 3]), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_downsampling_before_the_convolution_is_downsampling_after_it(stride, rows, columns, kernel, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 5, rows * stride, columns * stride, generator=generator, dtype=torch.float64)
    conv = nn.Conv2d(5, 4, kernel, padding=kernel // 2).double()
    (found,) = downsampled_conv(x, conv, [stride])
    expected = F.interpolate(conv(x), size=(rows, columns), mode="bilinear", align_corners=False)
    assert torch.allclose(found, expected, atol=1e-12)


@torch.inference_mode()
def test_masks_are_mask_vectors_times_mask_features(tiny):
    model = tiny.model
    pixels, _ = network_input(IMAGES, 64, tiny.config)
    memory = model.read_image(pixels)
    queries = model.mask_decoder(memory)[-1]
    features = model.pixel_decoder.mask_features(memory.finest)
    expected = torch.einsum("bqm,bmyx->bqyx", model.mask_decoder.mask_vectors(queries), features)
    assert close(model.mask_decoder.mask_logits(queries, memory.finest, model.pixel_decoder.mask_features), expected)


def test_a_query_whose_mask_is_empty_attends_everywhere(tiny):
    vectors = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # the second one's mask is negative everywhere
    features = torch.tensor([[[2.0, -3.0, 0.0], [-1.0, -2.0, -3.0]]])
    decoder = tiny.model.mask_decoder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(decoder), "mask_vectors", lambda self, queries: queries)
        visible = decoder.visible_cells(vectors, features)
    assert visible.tolist() == [[[[True, False, True], [True, True, True]]]]


# --- texts ---------------------------------------------------------------------------------------------------------


def test_there_are_81_templates_and_each_contains_the_name_once():
    assert len(set(TEMPLATES)) == 81
    assert all(template.count("{}") == 1 and template.endswith(".") for template in TEMPLATES)
    assert fill_templates("wall-other-merged", ["a {}."]) == ["a wall."]
    assert fill_templates("{x}", ["a {}."]) == ["a {x}."]


def test_a_class_embedding_is_the_unit_mean_of_unit_vectors(tiny):
    vectors = []
    for template in tiny.templates:
        ids = torch.tensor(tiny.tokenizer([template.format("dog")])["input_ids"])
        padded = torch.cat(
            [ids, torch.full((1, 77 - ids.shape[1]), ids.max())], dim=1
        )  # as long as the official code's
        end = encode_texts(tiny.model.text_encoder, padded).ends[0].detach()
        vectors.append(end / end.norm())
    mean = torch.stack(vectors).mean(dim=0)
    assert close(tiny.text_embeddings(["dog"])[0], mean / mean.norm())


def test_an_embedding_does_not_depend_on_its_batch(load_tiny):
    alone = load_tiny().text_embeddings(["dog"])[0]
    together = load_tiny().text_embeddings(["a much longer name than dog", *"abcdefghijklmnopqrstuvwxyz", "dog"])
    assert close(together[-1], alone)


def test_cached_embeddings_are_not_computed_again(load_tiny):
    seem = load_tiny()
    first = seem.text_embeddings(["dog"])
    done = []
    assert np.array_equal(seem.text_embeddings(["dog", "cat", "dog"], done.append)[[0, 2]], first[[0, 0]])
    assert done == [1]


def test_scores_are_a_softmax_over_classes_and_void_with_aliases_by_maximum():
    logits = torch.tensor([[[1.0, 3.0, 2.0, 0.5]]])  # class 0: texts 0 and 1, class 1: text 2, void: text 3
    expected = torch.tensor([3.0, 2.0, 0.5]).softmax(dim=0)
    assert torch.allclose(class_scores(logits, [[0, 1], [2]])[0, 0], expected)


def test_aliases_by_mean_are_one_embedding(tiny):
    texts = tiny.class_texts([["cat", "kitten"], "dog"], aliases="mean")
    cat, kitten, dog = tiny.text_embeddings(["cat", "kitten", "dog"])
    assert texts.groups == [[0], [1]]
    assert close(texts.embeddings[0], (cat + kitten) / np.linalg.norm(cat + kitten))
    assert np.array_equal(texts.embeddings[1], dog)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "the list of classes is empty"),
        (["cat", "dog", "Cat"], "the prompt 'Cat' is given twice"),
        (["cat", ["dog", "cat"]], "the prompt 'cat' is given twice"),
        (["cat", " "], r"class 1 has the prompts \[' '\]; give it a name"),
        (["cat", []], r"class 1 has the prompts \[\]"),
        (["x" * 80], r"prompt 'x+\.' has 83 tokens, the text encoder takes at most 77; shorten"),
    ],
)
def test_names_that_cannot_be_used_are_refused(tiny, names, message):
    with pytest.raises(SeemError, match=message):
        tiny.semantic_map(IMAGES[0], names)


def test_a_class_named_background_cannot_be_given_twice(tiny):
    with pytest.raises(SeemError, match="'background' is given twice"):
        tiny.semantic_map(IMAGES[0], ["background", "cat"], background="prompt")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\), expected uint8 \[H, W, 3\]"),
        (np.zeros((4, 4, 3), np.float32), r"images are float32 of shape \[1, 4, 4, 3\], expected uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"images are uint8 of shape \[1, 4, 4, 4\]"),
    ],
)
def test_an_image_of_another_kind_is_refused(tiny, image, message):
    with pytest.raises(SeemError, match=message):
        tiny.semantic_map(image, NAMES)


# --- maps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("original", "short_side", "resized", "padded"),
    [
        ((375, 500), 512, (512, 682), (512, 704)),  # the specification's example
        ((500, 375), 512, (682, 512), (704, 512)),
        ((512, 512), 512, (512, 512), (512, 512)),
        ((90, 121), 64, (64, 86), (64, 96)),
    ],
)
def test_sizes_of_the_focal_variants(tiny, original, short_side, resized, padded):
    geometry = plan_sizes(original, short_side, tiny.config)
    assert (geometry.resized, geometry.padded) == (resized, padded)


def test_the_sam_variants_have_one_input_size(load_tiny):
    config = load_tiny("sam_vit").config
    assert plan_sizes((100, 100), 62, config).resized == (62, 62)
    assert plan_sizes((100, 200), 62, config).resized == (32, 64)  # the long side must fit
    assert plan_sizes((100, 200), 62, config).padded == (64, 64)


@torch.inference_mode()
def test_the_map_equals_the_formula(tiny):
    """The formula at full size and all at once: no chunks, no groups."""
    image = IMAGES[0]
    pixels, geometry = network_input(image[None], 64, tiny.config)
    texts = torch.from_numpy(tiny.text_embeddings([*NAMES, "background"]))
    logits, masks = tiny.model(pixels, texts)
    height, width = geometry.resized
    large = F.interpolate(masks, geometry.padded, mode="bilinear", align_corners=False)[..., :height, :width]
    large = F.interpolate(large, image.shape[:2], mode="bicubic", align_corners=False, antialias=True)
    scores = logits[0].softmax(dim=-1)
    expected = torch.einsum("qk,qyx->kyx", scores, large[0].sigmoid())
    assert close(tiny.semantic_map(image, NAMES), expected[:-1])
    assert close(tiny.semantic_map(image, NAMES, background="void"), torch.cat([expected[-1:], expected[:-1]]))
    complement = (1 - expected[:-1].sum(dim=0)).clamp(0, 1)
    assert close(tiny.semantic_map(image, NAMES, background="complement")[0], complement)


def test_a_background_with_a_prompt_is_a_class_before_the_others(tiny):
    asked = tiny.semantic_map(IMAGES[0], NAMES, background="prompt")
    assert np.array_equal(asked, tiny.semantic_map(IMAGES[0], ["background", *NAMES]))
    texts = tiny.class_texts(NAMES, background="prompt", background_prompts=["wall", "grass"])
    assert texts.groups == [[0, 1], [2], [3], [4]]


def test_a_map_has_the_size_of_the_image_or_of_the_masks(tiny):
    assert tiny.semantic_map(IMAGES[0], NAMES).shape == (3, 50, 67)
    assert tiny.semantic_map(IMAGES[0], NAMES, size="native").shape == (3, 16, 22)  # 64 x 85 resized
    assert tiny.semantic_map(IMAGES[0][:, :50], NAMES, size="native").shape == (3, 16, 16)


@torch.inference_mode()
def test_the_native_map_is_the_sum_over_masks_as_they_are(tiny):
    square = IMAGES[:1, :, :50]
    pixels, _ = network_input(square, 64, tiny.config)
    logits, masks = tiny.model(pixels, torch.from_numpy(tiny.text_embeddings([*NAMES, "background"])))
    expected = torch.einsum("qk,qyx->kyx", logits[0].softmax(dim=-1), masks[0].sigmoid())[:-1]
    assert close(tiny.semantic_map(square[0], NAMES, size="native"), expected)


def test_images_of_one_size_give_the_same_maps_in_any_batch(tiny):
    texts = tiny.class_texts(NAMES)
    together = tiny.semantic_maps(IMAGES, texts)
    for image, found in zip(IMAGES, together, strict=True):
        assert close(found, tiny.semantic_maps(image[None], texts)[0])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), classes=st.integers(1, 5), scale=st.sampled_from([0.1, 1.0, 50.0]))
def test_normalised_maps_are_in_0_to_1_and_keep_their_argmax(seed, classes, scale):
    maps = scale * torch.rand(classes, 6, 5, generator=torch.Generator().manual_seed(seed))
    capped, summed = normalised(maps, "cap"), normalised(maps, "sum")
    assert torch.equal(normalised(maps, "none"), maps)
    for found in (capped, summed):
        assert found.min() >= 0
        assert found.sum(dim=0).max() <= 1 + 1e-6
        assert torch.equal(found.argmax(dim=0), maps.argmax(dim=0))
    below = maps.sum(dim=0) <= 1
    assert torch.equal(capped[:, below], maps[:, below])


def test_a_sum_of_zero_is_not_divided_by_zero():
    assert torch.equal(normalised(torch.zeros(3, 2, 2), "sum"), torch.zeros(3, 2, 2))


def test_a_single_prompt_has_the_same_mask_jointly_and_alone(tiny):
    joint, alone = (tiny.grounding_map(IMAGES[0], ["sea lion"], joint=j) for j in (True, False))
    assert joint.shape == (1, 50, 67)
    assert np.array_equal(joint, alone)
    assert 0 <= joint.min() <= joint.max() <= 1


def test_prompts_of_one_pass_attend_to_each_other(tiny):
    joint, alone = (tiny.grounding_map(IMAGES[0], NAMES, joint=j) for j in (True, False))
    assert joint.shape == alone.shape == (3, 50, 67)
    assert not np.allclose(joint, alone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_about_the_same_float32_maps(load_tiny, dtype):
    full = load_tiny(templates=("{}.",), short_side=64)
    half = load_tiny(templates=("{}.",), short_side=64)
    half.dtype = dtype
    expected, found = (s.semantic_map(IMAGES[0], NAMES, normalise="cap") for s in (full, half))
    assert found.dtype == np.float32
    assert np.abs(found - expected).mean() < 0.05
    assert not np.array_equal(found, expected)


@torch.inference_mode()
def test_text_logits_are_float32_under_autocast(tiny):
    pixels, _ = network_input(IMAGES[:1], 64, tiny.config)
    with torch.autocast("cpu", torch.bfloat16):
        logits = tiny.model(pixels, torch.from_numpy(tiny.text_embeddings(NAMES))).text_logits
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


@pytest.mark.parametrize("backbone", ["focal_dw", "sam_vit"])
def test_every_variant_runs_both_paths(load_tiny, backbone):
    seem = load_tiny(backbone, templates=("{}.",))
    assert seem.semantic_map(IMAGES[0], NAMES, short_side=62).shape == (3, 50, 67)
    assert seem.grounding_map(IMAGES[0], NAMES, short_side=62).shape == (3, 50, 67)
