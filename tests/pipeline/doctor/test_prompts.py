"""The prompts of the annotator: placeholders, identifiers, pieces, lengths, equal prompts, without the network."""

import json

import pytest

from pipeline.doctor.prompts import is_placeholder, prompt_findings, spelled_out, used_prompts

BACKGROUND = {"name": "background", "values": [0]}


@pytest.fixture
def asking(data, only):
    """The one finding with the text, for seem-nano and these classes with the values 1 and 2."""

    def ask(text, first, second, background=BACKGROUND, **seem):
        classes = [background, {**as_class(first), "values": [1]}, {**as_class(second), "values": [2]}]
        return only(text, **seem_run(classes, background["name"] if background is BACKGROUND else None, **seem))

    return ask


def as_class(entry):
    return {"name": entry} if isinstance(entry, str) else entry


def seem_run(classes, background, **seem):
    return {
        "annotator": "seem",
        "annotate.seem": {"checkpoint": "seem-nano"} | seem,
        "data.classes": classes,
        "data.background": background,
    }


@pytest.mark.parametrize(
    "text", ["class 1", "class #c80a0a", "Class_12", "label-3", "7", "x", "unnamed", "todo", "object2"]
)
def test_names_without_meaning_are_placeholders(text):
    assert is_placeholder(text)


@pytest.mark.parametrize("text", ["cat", "class room", "ox", "route 66", "objects", "label"])
def test_words_are_no_placeholders(text):
    assert not is_placeholder(text)


@pytest.mark.parametrize(
    ("name", "words"),
    [("traffic_light", "traffic light"), ("SignSymbol", "sign symbol"), ("cat", "cat"), ("SUV", "SUV"), ("_a_", "a")],
)
def test_identifiers_are_spelled_out(name, words):
    assert spelled_out(name) == words


def test_placeholders_must_be_named(asking):
    finding = asking(
        "placeholders that do not describe an object", "class 1", {"name": "pet", "prompts": ["turtle", "2"]}
    )
    assert (finding.level, finding.where) == ("error", ("class 1", "2 (pet)"))


def test_identifiers_get_words_as_their_fix(asking):
    finding = asking("written as identifiers", "sea_turtle", "fish")
    assert (finding.level, finding.where) == ("warning", ("sea_turtle",))
    assert finding.fix.endswith("{name: sea_turtle, prompts: [sea turtle]}")


def test_two_classes_with_one_prompt_are_an_error(asking):
    finding = asking("1 prompts are given twice", "fish", {"name": "shark", "prompts": ["Fish "]})
    assert (finding.level, finding.where) == ("error", ("'fish' = 'Fish ' of fish and shark",))


def test_prompts_with_the_same_tokens_are_found(asking):
    finding = asking("have the same tokens", "fish", {"name": "shark", "prompts": ["fish-other"]})
    assert finding.level == "error"
    assert finding.where == ("'fish' = 'fish-other' of fish and shark",)


@pytest.mark.parametrize(("word", "pieces"), [("zebu", "z e b u"), ("yak", "y a k")])
def test_words_that_are_split_into_letters_are_shown_in_pieces(asking, word, pieces):
    finding = asking("split into pieces", word, "fish")
    assert finding.level == "warning"
    assert finding.where == (f"{word} of {word}: {pieces}",)


def test_words_of_the_vocabulary_are_not_suspected(data, findings):
    classes = [BACKGROUND, {"name": "sea turtle", "values": [1]}, {"name": "jellyfish", "values": [2]}]
    assert [f for f in findings(**seem_run(classes, "background")) if f.level != "note"] == []


def test_a_prompt_too_long_for_the_text_encoder_is_an_error(asking):
    finding = asking("longer than the 77 tokens", {"name": "pet", "prompts": ["fish " * 80]}, "turtle")
    # 80 words, two for start and end, and the seven of the longest template, `a photo of the hard to see {}.`
    assert finding.level == "error"
    assert finding.where[0].startswith("pet (")
    assert int(finding.where[0].removeprefix("pet (").removesuffix(" tokens)")) > 82


def test_grounding_uses_no_templates(asking):
    fits_without_template = "fish " * 74
    text = "longer than the 77 tokens"
    assert asking(text, {"name": "pet", "prompts": [fits_without_template]}, "turtle").level == "error"
    with pytest.raises(AssertionError, match="note"):
        asking(text, {"name": "pet", "prompts": [fits_without_template]}, "turtle", mode="grounding")


def test_a_class_called_background_that_is_not_the_background_is_a_warning(asking):
    finding = asking("which SEEM uses for no object", "fish", "turtle", background={"name": "background"})
    assert (finding.level, finding.fix) == ("warning", "set data.background: background")


def test_a_background_without_a_prompt_is_not_checked(make_settings):
    seem = {"checkpoint": "seem-nano", "background": "void"}
    settings = make_settings(annotator="seem", **{"annotate.seem": seem})
    assert [prompt.text for prompt in used_prompts(settings.data, settings.annotate.seem)] == ["cat", "dog"]
    assert [prompt.text for prompt in used_prompts(settings.data, None)] == ["background", "cat", "dog"]


def test_prompts_of_prompted_networks_are_checked_and_names_of_labels_are_not(make_settings, tmp_path):
    (tmp_path / "data/net").mkdir(parents=True)
    overrides = {"data.classes": ["background", "class 1"], "annotate.transformers": {"model": "net"}}
    settings = make_settings(annotator="transformers", **overrides)
    config = tmp_path / "data/net/config.json"
    for architecture in ("CLIPSegForImageSegmentation", "Sam3VideoModel"):
        config.write_text(json.dumps({"architectures": [architecture]}))
        (finding,) = prompt_findings(settings, None)
        assert (finding.level, finding.where) == ("error", ("class 1",))
    config.write_text('{"architectures": ["SegformerForSemanticSegmentation"]}')
    assert prompt_findings(settings, None) == []
    config.unlink()
    assert prompt_findings(settings, None) == []


def test_an_annotator_of_the_user_may_ignore_prompts(data, only):
    classes = ["background", "class 1", {"name": "class 2", "prompts": ["class 1"]}]
    assert only("placeholders that", **{"data.classes": classes}).level == "warning"
    assert only("given twice", **{"data.classes": classes}).level == "warning"


def test_a_closed_vocabulary_is_not_checked(data, findings):
    onnx = {"model": "x.onnx", "class_map": {"class 1": [0], "class 2": [1]}}
    classes = [{"name": "class 1", "values": [0]}, {"name": "class 2", "values": [1, 2]}]
    settings = {"annotator": "onnx", "annotate.onnx": onnx, "data.classes": classes, "data.background": None}
    assert not any("placeholders that" in str(finding) for finding in findings(**settings))
