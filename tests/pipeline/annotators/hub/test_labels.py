"""The labels of a closed vocabulary that mean each class: by name, by prompt, by `class_map`, and what is refused."""

import re

import pytest

from pipeline.annotators.hub.labels import described, label_groups, labels_of, spelling
from pipeline.errors import AnnotatorError
from pipeline.settings import DataSettings

LABELS = ["wall", "building, edifice", "traffic light", "PottedPlant", "house", "cat"]


def groups(classes, class_map=None, complement=None, labels=LABELS):
    return label_groups(labels, class_map or {}, DataSettings(classes=classes, background=complement), complement)


@pytest.mark.parametrize("name", ["traffic light", "TrafficLight", "traffic_light", "Traffic-Light", "trafficlight"])
def test_case_and_separators_do_not_matter(name):
    assert groups([name, "cat"]) == [[2], [5]]


def test_a_label_with_synonyms_is_found_by_each_of_them():
    assert groups(["edifice", "cat"]) == groups(["Building", "cat"]) == [[1], [5]]
    assert groups(["building, edifice", "cat"]) == [[1], [5]]


def test_labels_of_the_name_and_of_all_prompts_are_added():
    assert groups([{"name": "Building", "prompts": ["house", "wall", "hut"]}, "cat"]) == [[0, 1, 4], [5]]


def test_a_label_that_is_called_like_a_class_belongs_to_it_alone():
    assert groups([{"name": "building", "prompts": ["house", "wall"]}, "wall"]) == [[1, 4], [0]]


def test_an_entry_of_the_class_map_replaces_the_labels_of_that_class():
    assert groups(["building", "cat", "animal"], {"animal": ["Cat"], "cat": []}) == [[1], [], [5]]
    assert groups(["building", "plant"], {"plant": [3, "house", 3]}) == [[1], [3, 4]]


def test_the_complement_needs_no_label():
    assert groups(["other", "cat"], complement="other") == [[], [5]]


def test_the_labels_of_each_class_are_described():
    classes = ["other", "Building", "pole"]
    found = described([[], [1, 4], []], LABELS, classes, "other")
    assert found == "other: 1 minus the others; Building: building, edifice (1) + house (4); pole: none"


@pytest.mark.parametrize(
    ("classes", "class_map", "message"),
    [
        (["cat", "trafic light"], {}, r"no label for trafic light \(trafic light: labels like it: traffic light\)"),
        (["cat", "plant"], {}, r"plant: labels like it: PottedPlant.* Its 6 labels: 0 wall, 1 building, .*5 cat"),
        (["cat", "sky"], {}, r"Add an entry for each class to annotate.transformers.class_map, with names or n"),
        (["cat", "dog"], {"cta": [0]}, "names 'cta', which is not in data.classes; did you mean cat"),
        (["cat", "dog"], {"dog": ["hause"]}, "has the label 'hause' for dog, but the network has none; .*: house"),
        (["cat", "dog"], {"dog": [6]}, "has the label 6 for dog, but the network has none; use 0 to 5"),
        (["cat", "dog"], {"dog": ["cat"]}, r"the label cat \(5\) belongs to cat and dog; list the labels of each"),
        (["cat", "dog"], {"dog": [], "cat": []}, "has no label for any class; add the labels of at least one"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_change_that_fixes_it(classes, class_map, message):
    with pytest.raises(AnnotatorError, match=message):
        groups(classes, class_map)


def test_a_background_without_a_label_can_be_the_complement():
    with pytest.raises(AnnotatorError, match=r"or set annotate\.transformers\.background: complement for other$"):
        label_groups(LABELS, {}, DataSettings(classes=["other", "cat"], background="other"))
    with pytest.raises(AnnotatorError, match=r"background is complement, but .* has an entry for other; remove one"):
        groups(["other", "cat"], {"other": [0]}, complement="other")


def test_the_entry_that_an_error_suggests_is_accepted():
    with pytest.raises(AnnotatorError) as error:
        groups(["cat", "sky"])
    assert re.search(r'\{sky: \["wall"\]\}', str(error.value))
    assert groups(["cat", "sky"], {"sky": ["wall"]}) == [[5], [0]]


def test_labels_come_in_the_order_of_their_numbers():
    assert labels_of({"1": "b", "0": "a"}) == ["a", "b"]
    with pytest.raises(AnnotatorError, match=r"numbers \[0, 2\], expected 0, 1, \.\.\. with the names"):
        labels_of({0: "a", 2: "b"})


def test_letters_of_any_script_are_compared():
    assert spelling("Straße_1") == spelling("STRASSE 1") == "strasse1"
    assert spelling("犬") != spelling("猫")
