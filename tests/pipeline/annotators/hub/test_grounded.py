"""Grounded-SAM 2 in the `transformers` annotator, against a literal computation: one call of SAM 2 per box."""

import itertools
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers as t
from safetensors.torch import load_file, save_file
from tiny_networks import DETECTORS, SAM2, SIDE, write_network

from pipeline.annotators.build import build_annotator
from pipeline.annotators.contract import check_maps
from pipeline.annotators.hub.detectors import texts_of
from pipeline.errors import AnnotatorError, NetworkError

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
CLASSES = ["cat", "rest", {"name": "dog", "prompts": ["A dog", "pup", "hound"]}]
PROMPTS = ("cat", "rest", "A dog", "pup", "hound")
THRESHOLDS = {"grounding_dino": 0.25, "mm_grounding_dino": 0.25, "owlv2": 0.1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Name -> folder of a tiny network, each written once."""
    root, written = tmp_path_factory.mktemp("grounded"), {}

    def folder(name):
        if name not in written:
            written[name] = write_network(root / name, *{**DETECTORS, **SAM2}[name])
        return written[name]

    return folder


@pytest.fixture
def build(folders, make_settings):
    def make(detector, classes=CLASSES, background=None, masks="sam2", **section):
        detector, masks = (folders(one) if isinstance(one, str) else one for one in (detector, masks))
        overrides = {"data.classes": classes, "data.background": background, "data.grid": [48, 64]}
        overrides |= {"data.ignore_values": [255]}
        overrides["annotate.transformers"] = {"model": str(detector), "mask_model": str(masks)} | section
        return build_annotator(make_settings(annotator="transformers", **overrides))

    return make


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits.double().numpy()))


@torch.inference_mode()
def scored_boxes(folder, name):
    """Boxes of transformers' own processors, float64 [3, Q, 4] in pixels, and scores by prompt, float64 [3, Q] each."""
    network = t.AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    processor, tokenizer = DETECTORS[name][1](), t.AutoTokenizer.from_pretrained(folder)
    pixels = processor(list(IMAGES), return_tensors="pt")["pixel_values"]
    scores = {prompt: [] for prompt in PROMPTS}
    boxes = []
    for image in pixels:
        if name == "owlv2":
            outputs = network(pixel_values=image[None], **tokenizer(list(PROMPTS), padding=True, return_tensors="pt"))
            by_prompt = dict(zip(PROMPTS, sigmoid(outputs.logits[0]).T, strict=True))
        else:
            words = tokenizer(". ".join(PROMPTS).lower() + ".", return_tensors="pt")
            outputs = network(pixel_values=image[None], **words)
            ends = [i for i, token in enumerate(words["input_ids"][0]) if token == 1012]
            by_prompt = {}
            for start, end, prompt in zip([0, *ends[:-1]], ends, PROMPTS, strict=True):
                by_prompt[prompt] = sigmoid(outputs.logits[0, :, start + 1 : end]).mean(axis=1)
        for prompt, score in by_prompt.items():
            scores[prompt].append(score)
        (found,) = processor.post_process_object_detection(outputs, -1, [(48, 64)])
        boxes.append(found["boxes"].double().numpy())
    return np.stack(boxes), {prompt: np.stack(found) for prompt, found in scores.items()}


@torch.inference_mode()
def mask_of(network, image, box):
    """Probabilities of one box in pixels, by a call of SAM 2 on the whole image: float64 [16, 16]."""
    pixels = F.interpolate(torch.tensor(image).permute(2, 0, 1)[None], (SIDE, SIDE), mode="bilinear", antialias=True)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (pixels / 255 - mean[:, None, None]) / std[:, None, None]
    scaled = box * [SIDE / 64, SIDE / 48, SIDE / 64, SIDE / 48]
    boxes = torch.tensor(scaled, dtype=torch.float32)[None, None]
    return sigmoid(network(pixel_values=pixels, input_boxes=boxes, multimask_output=False).pred_masks[0, 0, 0])


def literal(folders, name, thresholds):
    """Threshold -> maps, float64 [3, K, 16, 16]."""
    network = t.Sam2Model.from_pretrained(folders("sam2")).eval()
    boxes, scores = scored_boxes(folders(name), name)
    maps = {threshold: {prompt: np.zeros((3, 16, 16)) for prompt in PROMPTS} for threshold in thresholds}
    for i, image in enumerate(IMAGES):
        for number, box in enumerate(boxes[i].clip(0, [64, 48, 64, 48])):
            if box[0] == box[2] or box[1] == box[3]:  # outside the image
                continue
            mask = mask_of(network, image, box)
            for (threshold, by_prompt), prompt in itertools.product(maps.items(), PROMPTS):
                score = scores[prompt][i, number]
                if score > threshold:
                    by_prompt[prompt][i] = np.maximum(by_prompt[prompt][i], score * mask)
    return {threshold: of_classes(by_prompt) for threshold, by_prompt in maps.items()}


def of_classes(maps):
    return np.stack([maps["cat"], maps["rest"], np.max([maps[prompt] for prompt in PROMPTS[2:]], axis=0)], axis=1)


@pytest.fixture(scope="module")
def expected(folders):
    """Name of a detector -> threshold -> maps, float64 [3, K, 16, 16], each computed once."""
    computed = {}

    def maps(name):
        if name not in computed:
            computed[name] = literal(folders, name, (THRESHOLDS[name], 0.9))
        return computed[name]

    return maps


@pytest.mark.parametrize(
    "name", ["grounding_dino", *(pytest.param(name, marks=pytest.mark.slow) for name in ("owlv2", "mm_grounding_dino"))]
)
def test_maps_are_those_of_one_call_of_sam2_per_box(name, build, expected):
    annotator = build(name, normalise="none")
    maps, of_recipe = annotator(IMAGES), expected(name)[THRESHOLDS[name]]
    assert np.abs(maps - of_recipe).max() < 1e-5
    assert np.ptp(of_recipe, axis=1).max() > 1e-2  # the prompts have different maps
    assert maps.std(axis=(2, 3)).min() > 1e-3
    check_maps(maps, 3, 3, annotator)
    for image, alone in zip(IMAGES, maps, strict=True):
        assert np.abs(annotator(image[None])[0] - alone).max() < 1e-5
    annotator.prepare([["cat"], ["rest"], ["hound", "A dog", "pup"]])
    assert np.abs(annotator(IMAGES) - maps).max() < 1e-5


@pytest.mark.parametrize("name", ["owlv2", pytest.param("grounding_dino", marks=pytest.mark.slow)])
def test_boxes_count_if_their_score_exceeds_the_threshold(name, build, expected):
    of_most, of_some = expected(name).values()
    assert (of_most - of_some).max() > 1e-2
    annotator = build(name, score_threshold=0.9, normalise="none")
    assert np.abs(annotator(IMAGES) - of_some).max() < 1e-5
    annotator.network.threshold = 1
    assert annotator(IMAGES).max() == 0


def test_the_background_is_1_minus_the_others_and_sums_above_1_are_divided(build, expected):
    maps, of_recipe = build("owlv2", background="rest")(IMAGES), expected("owlv2")[0.1]
    others = of_recipe[:, 0] + of_recipe[:, 2]
    assert np.abs(maps[:, 1] - np.clip(1 - others, 0, 1)).max() < 1e-5
    assert others.max() > 1
    assert np.abs(maps[:, 0] - of_recipe[:, 0] / np.maximum(1, others)).max() < 1e-5


def test_boxes_are_decoded_in_parts_that_fit_into_memory(build, caplog, monkeypatch):
    annotator = build("owlv2")
    whole, sizes = annotator(IMAGES), []

    def small_memory(_, arguments):
        sizes.append(len(arguments["image_embeddings"]))
        if sizes[-1] > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")

    (masks,) = annotator.mask_models
    masks.mask_decoder.register_forward_pre_hook(lambda *a: small_memory(*a[::2]), with_kwargs=True)
    assert np.abs(annotator(IMAGES) - whole).max() < 1e-6
    assert sizes[:3] == [16, 8, 4]
    assert set(sizes[2:-1]) == {4}
    assert "a batch of 16 boxes does not fit into memory; now using 8" in caplog.text


def test_the_features_of_sam2_are_computed_once_per_image(build):
    annotator, calls = build("grounding_dino"), []
    (masks,) = annotator.mask_models
    masks.vision_encoder.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    lists = [[["cat"], ["rest"], ["a dog", "pup"]], [["pup"], ["rest"], ["a dog"]]]
    annotator.prepare_lists(lists)
    maps = annotator(IMAGES)
    assert calls == [3]
    for number, class_prompts in enumerate(lists):
        annotator.prepare(class_prompts)
        assert np.abs(maps[:, 3 * number : 3 * number + 3] - annotator(IMAGES)).max() < 1e-6


def test_prompts_that_exceed_a_text_are_divided_among_several(build, folders, expected):
    """With texts of 32 tokens, 40 letters need two; the prompts of a text are scored as if they were alone."""
    annotator = build("grounding_dino", normalise="none")
    first, second = [["a" * 12], ["b" * 12]], [["c" * 12]]
    annotator.prepare([*first, *second])
    assert [list(text.spans) for text in annotator.network.detectors[0].texts] == [["a" * 12, "b" * 12], ["c" * 12]]
    maps = annotator(IMAGES)
    annotator.prepare([*first, []])
    assert np.abs(annotator(IMAGES)[:, :2] - maps[:, :2]).max() < 1e-5
    annotator.prepare([[], [], *second])
    assert np.abs(annotator(IMAGES)[:, 2] - maps[:, 2]).max() < 1e-5
    annotator.prepare([*second, *first[::-1]])
    assert np.abs(annotator(IMAGES) - maps[:, ::-1]).max() < 1e-5


@pytest.mark.parametrize("prompts", [["cat"], ["a dog", "cat", "traffic light"], ["a" * 25, "bb", "c" * 29]])
def test_texts_have_the_tokens_of_the_stock_processor(folders, prompts):
    tokenizer = t.AutoTokenizer.from_pretrained(folders("grounding_dino"))
    texts = texts_of(tokenizer, prompts, 32)
    assert [prompt for text in texts for prompt in text.spans] == prompts
    for text in texts:
        assert text.ids.tolist() == [tokenizer(". ".join(text.spans) + ".")["input_ids"]]
        assert text.ids.shape[1] <= 32
        for prompt, span in text.spans.items():
            assert tokenizer.decode(text.ids[0, span]) == prompt


@pytest.mark.slow
def test_sam2_of_a_video_model_is_used(build, folders, tmp_path):
    video = shutil.copytree(folders("sam2_video"), tmp_path / "video")
    weights = load_file(video / "model.safetensors")
    own = load_file(folders("sam2") / "model.safetensors")
    assert weights.keys() > own.keys()
    save_file(weights | own, video / "model.safetensors", {"format": "pt"})
    assert np.array_equal(build("owlv2", masks="sam2")(IMAGES), build("owlv2", masks=video)(IMAGES))


def test_the_fingerprint_depends_on_the_weights_of_both_networks_and_the_threshold(build, folders, tmp_path):
    detector, masks = (shutil.copytree(folders(name), tmp_path / name) for name in ("owlv2", "sam2"))
    prints = [build("owlv2").fingerprint, build(detector, masks=masks).fingerprint]
    prints.append(build("owlv2", score_threshold=0.3).fingerprint)
    for folder, name in ((masks, "mask_decoder.iou_token.weight"), (detector, "class_head.dense0.bias")):
        weights = load_file(folder / "model.safetensors")
        weights[name] += 1e-3
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        prints.append(build(detector, masks=masks).fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


@pytest.mark.parametrize("name", ["owlv2", pytest.param("grounding_dino", marks=pytest.mark.slow)])
def test_a_lower_precision_gives_similar_maps(name, build, expected):
    rounded = build(name, precision="bfloat16", normalise="none")(IMAGES)
    assert rounded.dtype == np.float32
    assert 1e-5 < np.abs(rounded - expected(name)[THRESHOLDS[name]]).mean() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("grounding_dino", [40, 72]), ("owlv2", [96, 96])])
def test_the_size_of_the_input_of_the_detector_is_a_setting(name, size, build):
    annotator = build(name, input_size=size)
    assert annotator.source.preprocessing(IMAGES).shape == (3, 3, *size)
    maps = annotator(IMAGES)
    assert maps.shape == (3, 3, 16, 16)
    assert maps.std(axis=(2, 3)).min() > 1e-3


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("d" * 30, r"has 30 tokens, the text encoder takes at most 29; shorten it"),
        ("st. dog", r"has one of the characters \.\?, which end a phrase of Grounding DINO; remove it"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(folders, prompt, message):
    tokenizer = t.AutoTokenizer.from_pretrained(folders("grounding_dino"))
    with pytest.raises(AnnotatorError, match=rf"data.classes: the prompt '{prompt}' {message}"):
        texts_of(tokenizer, ["cat", prompt], 32)


def test_what_cannot_be_used_is_refused(build, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(AnnotatorError, match=r"the prompt 'd+' has 92 tokens, the text encoder takes at most 16; s"):
        build("owlv2", ["cat", "d" * 90])
    with pytest.raises(AnnotatorError, match=r"OWLv2 takes square images whose side is a multiple of 16, .* \[64, 6"):
        build("owlv2", input_size=[60, 60])
    with pytest.raises(AnnotatorError, match=r"class_map is for networks with labels, but OWLv2 is prompted; remov"):
        build("owlv2", class_map={"cat": [0]})
    with pytest.raises(AnnotatorError, match=r"is SAM 2, which needs boxes; set annotate.transformers.mask_model to"):
        build("sam2")
    with pytest.raises(AnnotatorError, match=r"Owlv2ForObjectDetection, expected Sam2Model or Sam2VideoModel, whi"):
        build("owlv2", masks="owlv2")
    with pytest.raises(NetworkError, match=r"annotate.transformers.mask_model is no/where, which is not a folder"):
        build("owlv2", mask_model="no/where")
