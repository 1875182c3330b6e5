"""GeoTIFF: labels, colours, no data and the georeference of the image are in the file; without one, the log says so."""

import numpy as np
import pytest
from digests import with_digests
from label_store import NAN, write_label_store
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from pipeline.datasets import load_samples, save_samples
from pipeline.exchange import export_labels
from pipeline.palette import class_colours

DOUBLE, SHORT, TEXT = 12, 3, 2
TAGS = {  # 0.5 m pixels in UTM zone 33 north (EPSG 32633)
    33550: (DOUBLE, (0.5, 0.5, 0.0)),
    33922: (DOUBLE, (0.0, 0.0, 0.0, 500000.0, 5400000.0, 0.0)),
    34735: (SHORT, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)),
    34737: (TEXT, "UTM zone 33N|"),
}


def write_as_geotiff(run, name, orientation=1):
    """Replace an image of a run by a GeoTIFF."""
    directory = ImageFileDirectory_v2()
    for tag, (kind, value) in {**TAGS, 274: (SHORT, orientation)}.items():
        directory.tagtype[tag], directory[tag] = kind, value
    with Image.open(run / name) as picture:
        picture.load()
    picture.save(run / name, format="TIFF", tiffinfo=directory)
    save_samples(run / "samples.json", with_digests(load_samples(run / "samples.json")))


@pytest.fixture
def store(tmp_path):
    path = write_label_store(tmp_path, np.array([[[[0, 1], [3, NAN]], [[0, 0], [0, 0]]]], np.float32), [(2, 2)] * 2)
    write_as_geotiff(tmp_path, "images/im_0.png")
    return path


def test_the_georeference_of_the_image_is_kept_and_its_absence_is_said(store, caplog):
    folder = export_labels(store, "geotiff").folder
    with Image.open(folder / "im_0.tif") as file:
        assert np.array(file).tolist() == [[0, 1], [3, 255]]
        assert {tag: (file.tag_v2.tagtype[tag], file.tag_v2[tag]) for tag in TAGS} == TAGS
        assert file.tag_v2[42113] == "255"
        assert np.array(file.getpalette()).reshape(-1, 3)[:4].tolist() == class_colours(4, 0).tolist()
    with Image.open(folder / "im_1.tif") as file:
        assert not TAGS.keys() & file.tag_v2.keys()
    assert (folder / "classes.txt").read_text().split() == ["background", "cat", "dog", "newt"]
    assert "1 of 2 images have no georeference, e.g. images/im_1.png; their labels have none either" in caplog.text


def test_the_georeference_of_an_image_that_is_turned_is_not_that_of_its_label(store, tmp_path, caplog):
    write_as_geotiff(tmp_path, "images/im_0.png", orientation=3)
    export_labels(store, "geotiff")
    assert "2 of 2 images have no georeference" in caplog.text


def test_rasterio_reads_the_same_place_for_image_and_label(store, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    folder = export_labels(store, "geotiff").folder
    with rasterio.open(tmp_path / "images/im_0.png") as image, rasterio.open(folder / "im_0.tif") as label:
        assert (label.crs, label.transform) == (image.crs, image.transform)
        assert (label.crs.to_epsg(), label.transform.a, label.nodata) == (32633, 0.5, 255)
        assert label.read(1).tolist() == [[0, 1], [3, 255]]
