"""COCO's JSON: ids of any type, one error for all that does not fit together, and no traceback for any content."""

import contextlib
import json
import unicodedata

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import DatasetError
from pipeline.sources.coco import MAX_PIXELS, find_coco, read_coco, refuse
from pipeline.sources.convert_masks.coco import category_classes, outlines_of
from pipeline.sources.convert_masks.drawing import draw

FAST = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def image(key=1, name="a.jpg", height=10, width=20):
    return {"id": key, "file_name": name, "height": height, "width": width}


def rectangle(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def annotation(key=1, image_id=1, category=1, **fields):
    return {"id": key, "image_id": image_id, "category_id": category, "segmentation": rectangle(2, 2, 7, 7)} | fields


def write(folder, images=None, annotations=None, categories=None):
    content = {
        "images": [image()] if images is None else images,
        "annotations": [annotation()] if annotations is None else annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}] if categories is None else categories,
    }
    path = folder / "instances_a.json"
    path.write_text(json.dumps(content))
    return path


def masks(path):
    """Masks by file name; DatasetError for shapes that cannot be drawn."""
    content = read_coco(path)
    classes = category_classes(content.categories, path)
    outlines = {i: outlines_of(content.annotations.get(i.id, ()), classes) for i in content.images}
    drawn = {i.name: draw(of_image, i.height, i.width) for i, of_image in outlines.items()}
    refuse(path, [problem for drawing in drawn.values() for problem in drawing.problems])
    return {name: drawing.mask for name, drawing in drawn.items()}


@pytest.mark.parametrize("key", [7, "7", 7.0, "im-7", ""])
@pytest.mark.parametrize("reference", [7, "7", 7.0])
def test_ids_of_any_type_are_matched_or_refused(tmp_path, key, reference):
    path = write(tmp_path, [image(key), image(8, "b.jpg")], [annotation(image_id=reference)])
    if key in (7, "7"):
        found = masks(path)
        assert (found["a.jpg"].sum(), found["b.jpg"].sum()) == (25, 0)
    else:
        with pytest.raises(DatasetError, match=r"annotation 1 has image_id .*7.*, which is not in images"):
            masks(path)


@pytest.mark.parametrize("name", ["Screenshot 10.00.00\u202fAM.png", "a\u00a0b.jpg", "caf\u00e9.jpg", "cafe\u0301.jpg"])
def test_names_with_any_space_and_in_any_normal_form_are_read(tmp_path, name):
    (found,) = read_coco(write(tmp_path, [image(name=name)], [], [{"id": 1, "name": "na\u00efve cat"}])).images
    assert found.stem == unicodedata.normalize("NFC", name.rpartition(".")[0])
    names = [read_coco(write(tmp_path, categories=[{"id": 1, "name": f}])).categories[1] for f in ("\u00e9", "e\u0301")]
    assert names == ["\u00e9"] * 2


def test_ids_are_ordered_as_numbers_first():
    keys = ["b", 10, 9, "10a"]
    assert list(category_classes(keys, None)) == [9, 10, "10a", "b"]


PROBLEMS = {
    "dangling image": (
        {"annotations": [annotation(image_id=99)]},
        "annotation 1 has image_id 99, which is not in images",
    ),
    "dangling category": (
        {"annotations": [annotation(category=5)]},
        "annotation 1 has category_id 5, which is not in cat",
    ),
    "double image id": ({"images": [image(), image(1, "b.jpg")]}, "two entries of kind image have the id 1"),
    "double id, two types": ({"images": [image(), image("1", "b.jpg")]}, "two entries of kind image have the id 1"),
    "double category": (
        {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
        "kind category have the id 1",
    ),
    "double annotation": (
        {"annotations": [annotation(), annotation()]},
        "two entries of kind annotation have the id 1",
    ),
    "double name": ({"images": [image(), image(2)]}, "the images 1 and 2 have the same file_name 'a.jpg'"),
    "id of a list": ({"images": [image([1])]}, r"image number 1 has the id \[1\], expected a number or a text"),
    "id of null": ({"images": [image(None)]}, "image number 1 has the id null"),
    "id of true": ({"images": [image(True)]}, "image number 1 has the id true"),
    "id of a fraction": ({"categories": [{"id": 1.5, "name": "a"}]}, "category number 1 has the id 1.5"),
    "no id": ({"annotations": [{"image_id": 1}]}, "annotation number 1 has no id"),
    "entry of text": ({"images": ["a.jpg"]}, "image number 1 has no id"),
    "no size": ({"images": [{"id": 1, "file_name": "a.jpg"}]}, "image 'a.jpg' has the height and width null and null"),
    "null size": ({"images": [image(height=None)]}, "height and width null and 20, expected its size in pixels"),
    "zero size": ({"images": [image(width=0)]}, "height and width 10 and 0"),
    "size of text": ({"images": [image(width="20")]}, 'height and width 10 and "20"'),
    "huge size": ({"images": [image(height=MAX_PIXELS)]}, f"expected at most {MAX_PIXELS}"),
    "no name": ({"images": [{"id": 1, "height": 2, "width": 2}]}, "image 1 has the file_name null"),
    "name of a folder": ({"images": [image(name="..")]}, 'image 1 has the file_name ".."'),
    "control character": ({"images": [image(name="a\n.jpg")]}, r'image 1 has the file_name "a\\n.jpg"'),
    "category without name": ({"categories": [{"id": 1}]}, "category 1 has the name null"),
    "crowd of text": ({"annotations": [annotation(iscrowd="0")]}, 'annotation 1 has iscrowd "0", expected 0 or 1'),
    "no shape": ({"annotations": [annotation(segmentation=[])]}, "no segmentation and the bbox null"),
    "empty box": ({"annotations": [annotation(segmentation=None, bbox=[1, 1, 0, 3])]}, r"the bbox \[1, 1, 0, 3\]"),
    "flat list": ({"annotations": [annotation(segmentation=[1, 1, 5, 1, 5, 5])]}, "annotation 1 .*is one flat list"),
    "nan": ({"annotations": [annotation(segmentation=[[1, 1, float("nan"), 1, 5, 5]])]}, "is not finite"),
    "far away": ({"annotations": [annotation(segmentation=[[1, 1, 1e300, 1, 5, 5]])]}, "is far outside the image"),
    "polygon of texts": (
        {"annotations": [annotation(segmentation=[["1", "2", "3", "4"]])]},
        "polygon is not a list of x",
    ),
    "ragged polygons": ({"annotations": [annotation(segmentation=[[[1, 2], [3]]])]}, "polygon is not a list of x"),
    "runs of fractions": (
        {"annotations": [annotation(segmentation={"size": [10, 20], "counts": [0.5]})]},
        "not integers",
    ),
    "runs past 64 bits": (
        {"annotations": [annotation(segmentation={"size": [10, 20], "counts": [2**62] * 4 + [200]})]},
        "run-length encoding covers",
    ),
    "runs of any text": ({"annotations": [annotation(segmentation={"size": [10, 20], "counts": "é"})]}, "does not use"),
    "endless number": ({"annotations": [annotation(segmentation={"size": [10, 20], "counts": "o" * 99})]}, "not use"),
}


@pytest.mark.parametrize(("changes", "message"), PROBLEMS.values(), ids=PROBLEMS)
def test_a_file_that_does_not_fit_together_is_refused_in_one_line(tmp_path, changes, message):
    path = write(tmp_path, **changes)
    with pytest.raises(DatasetError, match=message) as error:
        masks(path)
    assert str(error.value).startswith(f"{path} has 1 problem") or "2 problems" in str(error.value)
    assert "\n" not in str(error.value)


def test_all_problems_are_counted_and_the_first_are_named(tmp_path):
    path = write(tmp_path, annotations=[annotation(i, image_id=99 + i) for i in range(7)])
    with pytest.raises(
        DatasetError, match=r"has 7 problems: annotation 0 .*annotation 4 .*; and 2 more; correct or remov"
    ):
        read_coco(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is not valid JSON"),
        (b'{"images": [', "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "is not valid JSON"),
        (b"[]", r"contains \[\], expected an object with images, annotations, categories"),
        (b"null", "contains null"),
        (b'{"images": [], "annotations": {}}', "has no list of annotations and no list of categories"),
        (b'{"images": [], "images": [1], "annotations": [], "categories": []}', "an object has 'images' twice"),
    ],
)
def test_a_file_that_is_no_coco_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(DatasetError, match=message) as error:
        read_coco(tmp_path / "a.json")
    assert "\n" not in str(error.value)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    path = write(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert masks(path)["a.jpg"].sum() == 25


def test_pixels_in_a_box_without_outline_have_no_label_except_in_other_objects(tmp_path):
    box = annotation(2, category=2, segmentation=[], bbox=[6.5, 1.2, 3, 2])  # columns 6 to 9, rows 1 to 3
    path = write(tmp_path, annotations=[annotation(), box])
    expected = np.zeros((10, 20), int)
    expected[1:4, 6:10] = 255
    expected[2:7, 2:7] = 1
    assert (masks(path)["a.jpg"] == expected).all()
    content = read_coco(path)
    assert (content.boxes_only(), content.has_outlines(content.images[0])) == ([2], True)
    content = read_coco(write(tmp_path, annotations=[box]))
    assert not content.has_outlines(content.images[0]), "an image with boxes only has no outline"


def test_only_visible_files_with_cocos_lists_are_found(tmp_path):
    path = write(tmp_path)
    (tmp_path / "._instances_a.json").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/b.json").write_bytes(path.read_bytes())
    (tmp_path / "other.json").write_text('{"images": 3}')
    assert list(find_coco(tmp_path)) == [path]
    assert list(find_coco(path)) == [path]


def spellings(number):
    return st.sampled_from([number, str(number), float(number)])


@st.composite
def files(draw_from):
    """Content of a sound file, and the mask of each image by its name: rectangles, painted from large to small."""
    sizes = draw_from(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=3))
    images, annotations, expected, areas = [], [], {}, {}
    for number, (height, width) in enumerate(sizes):
        images.append(image(draw_from(spellings(number)), f"im{number}.jpg", height, width))
        expected[f"im{number}.jpg"] = np.zeros((height, width), np.uint8)
    for number in range(draw_from(st.integers(0, 4))):
        of_image = draw_from(st.integers(0, len(images) - 1))
        height, width = sizes[of_image]
        top, left = draw_from(st.integers(0, height - 1)), draw_from(st.integers(0, width - 1))
        bottom, right = draw_from(st.integers(top + 1, height)), draw_from(st.integers(left + 1, width))
        category = draw_from(st.integers(1, 3))
        inside = np.zeros((height, width), bool)
        inside[top:bottom, left:right] = True
        shape = rectangle(left, top, right, bottom)
        if draw_from(st.booleans()):
            flat = np.concatenate([[False], inside.T.ravel(), [True]])
            ends = np.flatnonzero(flat[1:] != flat[:-1])
            ends = ends[ends < inside.size]
            shape = {"size": [height, width], "counts": np.diff([0, *ends, inside.size]).tolist()}
        ids = draw_from(spellings(of_image)), draw_from(spellings(category))
        annotations.append(annotation(draw_from(spellings(number)), *ids, segmentation=shape))
        areas[number] = (-int(inside.sum()), number, of_image, inside, category)
    for _, _, of_image, inside, category in sorted(areas.values(), key=lambda entry: entry[:2]):
        expected[f"im{of_image}.jpg"][inside] = category
    order = draw_from(st.permutations(annotations))
    categories = [{"id": draw_from(spellings(number)), "name": f"class {number}"} for number in (3, 1, 2)]
    return {"images": images, "annotations": order, "categories": categories}, expected


@FAST
@given(files())
def test_sound_files_give_the_masks_that_were_painted(tmp_path, case):
    content, expected = case
    path = write(tmp_path, **content)
    found = masks(path)
    assert found.keys() == expected.keys()
    assert all((found[name] == expected[name]).all() for name in expected)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from([10**400, -1, "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "size", "counts"]), inner),
    max_leaves=5,
)


@FAST
@given(files(), st.data())
def test_no_changed_value_causes_a_traceback(tmp_path, case, data):
    """One value of a sound file, at any depth, is replaced by any JSON or removed."""
    content, _ = case
    parent, key = {"file": content}, "file"
    while isinstance(parent[key], dict | list) and len(parent[key]) and (key == "file" or data.draw(st.booleans())):
        parent, key = parent[key], data.draw(st.sampled_from(places(parent[key])))
    if key == "file":
        return
    if data.draw(st.booleans()):
        parent[key] = data.draw(JSON)
    else:
        del parent[key]
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(content))
    with contextlib.suppress(DatasetError):
        assert all(set(np.unique(mask).tolist()) <= {0, 1, 2, 3, 255} for mask in masks(path).values())


def places(value):
    return list(value) if isinstance(value, dict) else list(range(len(value)))
