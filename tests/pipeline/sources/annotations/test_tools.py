"""Files as LabelMe, CVAT, Label Studio and YOLO document them, with a scene whose pixels can be counted by hand."""

import base64
import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import DatasetError
from pipeline.sources.annotations import READERS, detect, unpacked
from pipeline.sources.annotations.label_studio import decode_brush

SIZE = HEIGHT, WIDTH = 4, 6
CAT = [(0, 0), (3, 0), (3, 4), (0, 4)]  # the left half
DOG = np.array([[0, 1], [1, 1]], bool)  # at row 1, column 2, in front of the cat because it is smaller
SCENE = [
    ["cat", "cat", "cat", None, None, None],
    ["cat", "cat", "cat", "dog", None, None],
    ["cat", "cat", "dog", "dog", None, None],
    ["cat", "cat", "cat", None, None, None],
]


def labelme(folder, **fields):
    picture = io.BytesIO()
    Image.fromarray(DOG).save(picture, "PNG")
    shapes = [
        {"label": "cat", "points": [list(p) for p in CAT], "shape_type": "polygon", "group_id": None, "flags": {}},
        {
            "label": "dog",
            "points": [[2, 1], [3, 2]],
            "shape_type": "mask",
            "mask": base64.b64encode(picture.getvalue()).decode(),
        },
        {"label": "cat", "points": [[0, 0], [1, 1]], "shape_type": "line"},
    ]
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": "..\\photos\\a.jpg",
        "imageData": "AAAA",
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    } | fields
    (folder / "a.json").write_text(json.dumps(content))
    (folder / "b.json").write_text(json.dumps(content | {"shapes": [], "imagePath": "b.jpg"}))


def cvat(folder, image='name="photos/a.jpg" width="6" height="4"', extra=""):
    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in CAT)
    (folder / "annotations.xml").write_text(f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><job><labels>
    <label><name>cat</name><color>#ff0000</color><type>any</type><attributes></attributes></label>
    <label><name>dog</name></label><label><name>never drawn</name></label>
    <label><name>paw</name><parent>cat</parent></label>
  </labels></job></meta>
  <image id="0" {image}>
    <polygon label="cat" source="manual" occluded="0" points="{points}" z_order="0"></polygon>
    <mask label="dog" source="manual" occluded="0" rle="1, 3" left="2" top="1" width="2" height="2" z_order="0"></mask>
    <polyline label="cat" points="0,0;1,1"></polyline>
    <tag label="cat" source="manual"></tag>{extra}
  </image>
  <image id="1" name="b.jpg" width="6" height="4"></image>
</annotations>
""")


def brush(mask):
    """A brush stroke as Label Studio encodes it: every value on its own, in words of 8 bits."""
    values = np.repeat(mask.ravel().astype(np.uint8) * 255, 4)
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    for value in values:
        bits += f"000{0:03b}{value:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def whole(mask, row, column):
    image = np.zeros(SIZE, bool)
    image[row : row + mask.shape[0], column : column + mask.shape[1]] = mask
    return image


def label_studio_results(**fields):
    facts = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0} | fields
    points = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in CAT]
    return [
        {"id": "aB3", "type": "polygonlabels", "value": {"points": points, "polygonlabels": ["cat"]}, **facts},
        {
            "id": "x9",
            "type": "brushlabels",
            "value": {"format": "rle", "rle": brush(whole(DOG, 1, 2)), "brushlabels": ["dog"]},
            **facts,
        },
        {"type": "choices", "value": {"choices": ["good"]}},
        {"type": "keypointlabels", "value": {"x": 1, "y": 1, "keypointlabels": ["cat"]}, **facts},
    ]


def label_studio(folder, **fields):
    wrong = {"result": [{**label_studio_results()[0]}], "was_cancelled": True}
    tasks = [
        {
            "id": 5,
            "file_upload": "0123abcd-a.jpg",
            "data": {"title": "x", "image": "/data/upload/1/0123abcd-a.jpg"},
            "annotations": [{"result": label_studio_results(**fields)}, wrong],
            "predictions": [],
        },
        {"id": 6, "data": {"image": "s3://bucket/dir/b.jpg"}, "annotations": [{"result": []}]},
    ]
    (folder / "project-1-at-2026.json").write_text(json.dumps(tasks))


def label_studio_min(folder):
    regions = [
        {**r["value"], **{k: v for k, v in r.items() if k.startswith("original")}} for r in label_studio_results()[:2]
    ]
    tasks = [
        {"id": 5, "image": "/data/local-files/?d=photos%2Fa.jpg", "label": regions[:1], "brush": regions[1:]},
        {"id": 6, "image": "b.jpg"},
    ]
    (folder / "export.json").write_text(json.dumps(tasks))


def yolo(folder, lines=None):
    """Polygons only: the dog is an L of three pixels."""
    dog = [(3, 1), (4, 1), (4, 3), (2, 3), (2, 2), (3, 2)]
    (folder / "labels").mkdir()
    (folder / "data.yaml").write_text("train: ../train/images\nnc: 3\nnames: ['cat', 'dog', 'never drawn']\n")
    text = "".join(
        f"{key} " + " ".join(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in points) + "\r\n"
        for key, points in ((0, CAT), (1, dog))
    )
    (folder / "labels/a.txt").write_text(text if lines is None else lines)
    (folder / "labels/b.txt").write_text("")


WRITERS = {
    "labelme": labelme,
    "cvat": cvat,
    "label-studio": label_studio,
    "label-studio, JSON-MIN": label_studio_min,
    "yolo": yolo,
}


def read(folder):
    name = detect(folder)
    return READERS[name].read(folder, 10**6)


def scene(image):
    drawn = image.draw(SIZE)
    names = [None, *image.names]
    return [[names[value] for value in row] for row in drawn.mask.tolist()], drawn.num_covered


@pytest.mark.parametrize("tool", WRITERS)
@pytest.mark.parametrize("is_zipped", [False, True])
def test_the_scene_is_read_from_the_files_of_each_tool(tmp_path, tool, is_zipped):
    export = tmp_path / "export"
    export.mkdir()
    WRITERS[tool](export)
    assert detect(export) == tool.partition(",")[0]
    source = export
    if is_zipped:
        source = tmp_path / "export.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for path in sorted(p for p in export.rglob("*") if p.is_file()):
                archive.write(path, path.relative_to(tmp_path))
    with unpacked(source, HEIGHT * WIDTH) as folder:
        annotations = read(folder)
        first, second = annotations.images
        # one pixel of the dog, in row 2 and column 2, is inside the cat too
        assert scene(first) == (SCENE, 1)
    assert list(annotations.names)[:2] == ["cat", "dog"]
    assert ("never drawn" in annotations.names) == (tool in ("cvat", "yolo"))
    assert (first.id_among({"a"}), second.id_among({"b"})) == ("a", "b")
    assert (first.is_annotated, second.is_annotated) == (True, False)
    lines = [remark for remark in annotations.remarks if "not drawn, because they have no area: 1 " in remark]
    assert len(lines) == (tool in ("labelme", "cvat", "label-studio"))


def test_a_single_file_is_read_too(tmp_path):
    for tool, name in (("labelme", "a.json"), ("cvat", "annotations.xml"), ("yolo", "data.yaml")):
        (tmp_path / tool).mkdir()
        WRITERS[tool](tmp_path / tool)
        assert detect(tmp_path / tool / name) == tool
        assert scene(read(tmp_path / tool / name).images[0])[0] == SCENE
    assert scene(read(tmp_path / "yolo/labels").images[0])[0] == SCENE, "data.yaml is beside the folder"


def test_boxes_are_void_and_counted(tmp_path):
    writers = {
        "labelme": lambda f: labelme(
            f, shapes=[{"label": "cat", "points": [[0, 0], [2, 1]], "shape_type": "rectangle"}]
        ),
        "cvat": lambda f: cvat(f, extra='<box label="cat" xtl="4" ytl="0" xbr="6" ybr="1"></box>'),
        "yolo": lambda f: yolo(f, "0 0.5 0.5 0.2 0.2\n1 0 0 1 0 1 1\n"),
    }
    for tool, write in writers.items():
        (tmp_path / tool).mkdir()
        write(tmp_path / tool)
        annotations = read(tmp_path / tool)
        assert f"{tmp_path / tool}: 1 boxes are no outlines; the pixels in them get no label" in annotations.remarks[0]
    assert not read(tmp_path / "labelme").images[0].is_annotated
    assert read(tmp_path / "cvat").images[0].draw(SIZE).mask[0].tolist() == [1, 1, 1, 0, 255, 255]


def test_the_z_order_of_cvat_decides_what_is_in_front(tmp_path):
    floor = '<polygon label="never drawn" points="0,0;6,0;6,4;0,4" z_order="1"></polygon>'
    cvat(tmp_path, extra=floor)
    image = read(tmp_path).images[0]
    assert {image.names[v - 1] for v in np.unique(image.draw(SIZE).mask)} == {"never drawn"}
    cvat(tmp_path, extra=floor.replace('"1"', '"-1"'))
    image = read(tmp_path).images[0]
    found = scene(image)[0]
    assert [[label or "never drawn" for label in row] for row in SCENE] == found


def test_the_ground_truth_or_the_last_annotation_counts(tmp_path):
    def task(*flags):
        labels = ["cat", "dog"]
        results = [label_studio_results()[0] for _ in flags]
        entries = [
            {"ground_truth": flag, "result": [{**r, "value": {**r["value"], "polygonlabels": [label]}}]}
            for flag, r, label in zip(flags, results, labels, strict=True)
        ]
        return {"id": 1, "data": {"image": "a.jpg"}, "annotations": entries}

    for flags, expected in (((False, False), "dog"), ((True, False), "cat")):
        (tmp_path / "e.json").write_text(json.dumps([task(*flags)]))
        annotations = read(tmp_path)
        assert list(annotations.names) == [expected]
        assert "1 images have several annotations" in annotations.remarks[0]


MALFORMED = {
    "no points": (
        lambda f: labelme(f, shapes=[{"label": "cat"}]),
        r"a.json: shapes.0.points is .*: Field required; corr",
    ),
    "odd point": (lambda f: labelme(f, shapes=[{"label": "c", "points": [[1]]}]), r"a.json: shapes.0.points.0.1 is "),
    "empty label": (
        lambda f: labelme(f, shapes=[{"label": " ", "points": [[1, 1]]}]),
        r"shape 1 \(polygon\) has the label",
    ),
    "no png": (
        lambda f: labelme(f, shapes=[{"label": "c", "points": [[0, 0], [1, 1]], "shape_type": "mask", "mask": "AAAA"}]),
        r"a.json: shape 1 \(mask\) cannot be drawn: its mask is no PNG in base64",
    ),
    "odd kind": (
        lambda f: labelme(f, shapes=[{"label": "c", "points": [[0, 0], [1, 1]], "shape_type": "star"}]),
        r"shape 1 \(star\) cannot be drawn: its shape_type 'star' is unknown",
    ),
    "labelme of another size": (lambda f: labelme(f, imageWidth=7), r"a.json is 7 x 4, but its image is 6 x 4; resize"),
    "tracks": (lambda f: cvat(f, extra="</image><track/><image>"), r"has the tracks of a video; export the task again"),
    "broken xml": (lambda f: cvat(f, extra="<"), r"annotations.xml is not valid XML"),
    "entities": (
        lambda f: (f / "a.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>'),
        r"a.xml declares a document type",
    ),
    "no size": (lambda f: cvat(f, image='name="a.jpg"'), r"a.jpg has height None, expected a number; export the task"),
    "short rle": (
        lambda f: cvat(f, extra='<mask label="dog" rle="1, 2" left="0" top="0" width="2" height="2"/>'),
        r"a.jpg: mask 5 has an rle that cannot be read: its runs cover 3 pixels, but its bitmap has 2 x 2",
    ),
    "odd points": (
        lambda f: cvat(f, extra='<polygon label="dog" points="1,2,3"/>'),
        r"polygon 5 has the points '1,2,3'",
    ),
    "rotated": (
        lambda f: label_studio(f, image_rotation=90),
        r"task 5: region aB3 \(polygonlabels\) was drawn on an image rotated by 90 degrees; rotate the image file",
    ),
    "another image": (lambda f: label_studio(f, original_width=7), r"task 5 is 7 x 4, but its image is 6 x 4; resize"),
    "pixels": (
        lambda f: yolo(f, "0 1 1 300 1 300 200\n"),
        r"a.txt line 1 has a coordinate outside 0 to 1, expected frac",
    ),
    "no class": (
        lambda f: yolo(f, "\n7 0 0 1 0 1 1\n"),
        r"a.txt line 2 has the class 7, which .*data.yaml does not name",
    ),
    "odd number": (lambda f: yolo(f, "0 0 0 1 0 1\n"), r"a.txt line 1 has 5 numbers after the class, expected an even"),
    "words": (lambda f: yolo(f, "cat 0 0 1 0 1 1\n"), r"a.txt line 1 is 'cat 0 0 1 0 1 1', expected CLASS X Y X Y"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_does_not_fit_is_refused_with_its_file_and_entry(tmp_path, case):
    write, message = MALFORMED[case]
    write(tmp_path)
    with pytest.raises(DatasetError, match=message):
        read(tmp_path).images[0].draw(SIZE)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 255)), min_size=1, max_size=8), st.data())
def test_brush_strokes_of_runs_and_of_single_values_are_decoded_and_damaged_ones_refused(pieces, data):
    values = np.concatenate([np.full(number, value, np.uint8) for number, value in pieces])
    sizes = (3, 4, 8, 16)
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    for number, value in pieces:
        which = data.draw(st.sampled_from([i for i, size in enumerate(sizes) if number <= 2**size]))
        head = f"{which:02b}{number - 1:0{sizes[which]}b}"
        bits += f"1{head}{value:08b}" if data.draw(st.booleans()) else f"0{head}" + f"{value:08b}" * number
    bits += "0" * (-len(bits) % 8)
    rle = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert np.array_equal(decode_brush(rle, len(values)), values)
    for damaged, message in (
        (rle[:-2], "ends too early"),
        (rle, "values of 8 bits, but its image has"),
        ([256], "bytes"),
    ):
        with pytest.raises(ValueError, match=message):
            decode_brush(damaged, len(values) + (damaged is rle))


ODD = st.sampled_from(
    [None, True, 0, -1, 1e308, 10**400, float("nan"), float("inf"), "", "a\nb", [], {}, [[]], [1, 2], {"a": 1}, "é"]
)


def entries_of(content):
    """Every container in a JSON with every key in it."""
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    return [(content, key) for key in keys] + [pair for key in keys for pair in entries_of(content[key])]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["labelme", "label-studio", "label-studio, JSON-MIN"]), st.data())
def test_a_changed_entry_is_read_or_refused_in_one_line(tmp_path_factory, tool, data):
    folder = tmp_path_factory.mktemp("export")
    WRITERS[tool](folder)
    path = next(folder.glob("*.json"))
    content = json.loads(path.read_text())
    container, key = data.draw(st.sampled_from(entries_of(content)))
    container[key] = data.draw(ODD)
    path.write_text(json.dumps(content))
    problem = f"{folder} is read"
    try:
        for image in read(folder).images if detect(folder) else ():
            image.draw(SIZE)
    except DatasetError as error:
        problem = str(error)
    assert str(folder) in problem
    assert "\n" not in problem
