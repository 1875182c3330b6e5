"""Masks beside images, masks in formats that are not read, and masks with other names than their images."""

import pytest
from click.testing import CliRunner

from pipeline.commands.init import init
from pipeline.sources import find_samples


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.fixture
def found(tmp_path, make_settings):
    """Samples and problems of a data set with these files and settings."""

    def find(*names, **settings):
        touch(tmp_path / "data", *names)
        drawn = {"splits.num_labeled": None, "splits.num_val": 1}
        return find_samples(make_settings(**drawn | settings).data)

    return find


@pytest.mark.parametrize(("stem", "ending"), [("s {}", "_mask.png"), ("benign ({})", " é_mask.PNG"), ("s{}", "-m.tif")])
def test_masks_beside_the_images_are_no_images(found, stem, ending):
    ids = [stem.format(i) for i in range(6)]
    files = [f"images/{name}.png" for name in ids] + [f"images/{name}{ending}" for name in [*ids[:4], "orphan"]]
    samples, problems = found(*files, **{"data.masks": "images", "data.mask_ending": ending})
    assert problems == []
    assert sorted(sample.id for sample in samples) == ids
    assert sorted(sample.id for sample in samples if sample.split != "unlabeled") == ids[:4]


def test_masks_with_another_suffix_beside_the_images_are_no_images(found):
    files = [f"images/{i}.jpg" for i in range(6)] + [f"images/{i}.png" for i in range(4)]
    samples, problems = found(*files, **{"data.masks": "images", "data.mask_ending": ".png"})
    assert problems == []
    assert sorted(sample.image for sample in samples) == [f"images/{i}.jpg" for i in range(6)]


def test_a_mask_folder_inside_the_image_folder_has_no_images(found):
    images = [f"train2017/t{i}.jpg" for i in range(4)] + ["val2017/v.jpg"]
    masks = [f"train2017/masks/{name}_m.png" for name in ("t0", "t1", "v")]
    samples, problems = found(
        *images, *masks, **{"data.layout": "coco", "data.masks": "train2017/masks", "data.mask_ending": "_m.png"}
    )
    assert problems == []
    assert sorted(sample.image for sample in samples) == ["train2017/t0.jpg", *images[1:]]


def test_one_folder_without_an_ending_of_masks_is_refused(found):
    samples, problems = found("images/a.png", "images/a_mask.png", **{"data.masks": "images"})
    assert samples == []
    assert len(problems) == 1
    assert "images and masks are both in" in problems[0]
    assert "set data.mask_ending" in problems[0]


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "webp", "npy"])
@pytest.mark.parametrize("ending", [None, "_mask.png"])
def test_masks_in_a_format_that_is_not_read_are_named_with_the_reason(found, suffix, ending):
    between = "_mask" if ending else ""
    files = [f"images/{i}.png" for i in range(6)] + [f"masks/{i}{between}.{suffix}" for i in range(4)]
    _, problems = found(*files, **{"data.mask_ending": ending})
    assert f"masks/0{between}.{suffix} and 3 more cannot be read as masks" in problems[0]
    assert "JPEG and WebP change class values" in problems[0]
    assert "export the masks again as PNG" in problems[0]


def test_a_few_masks_in_another_format_are_not_taken_for_missing_ones(found):
    files = [f"images/{i}.png" for i in range(8)] + [f"masks/{i}.png" for i in range(4)] + ["masks/5.jpg"]
    _, (problem,) = found(*files)
    assert "masks/5.jpg cannot be read as masks" in problem


def test_previews_of_masks_and_files_of_unlabeled_images_are_no_problem(found, tmp_path):
    files = [f"images/{i}.png" for i in range(6)] + [f"masks/{i}.png" for i in range(3)]
    assert found(*files, "masks/0.jpg", "masks/elsewhere.jpg")[1] == []
    (tmp_path / "data/unlabeled.txt").write_text("4\n5\n")
    assert found("masks/4.jpg", **{"splits.unlabeled": "unlabeled.txt"})[1] == []


@pytest.mark.parametrize(
    ("masks", "reason"),
    [
        ([], "no image has a mask: there is no mask folder .*/masks; set data.masks"),
        (["masks/readme.txt"], "no image has a mask: .*/masks contains no mask"),
        (["masks/mask_a.png"], "e.g. the mask mask_a.png and the image a.png; set data.mask_ending"),
    ],
)
def test_without_any_mask_the_reason_is_given(found, masks, reason):
    _, problems = found("images/a.png", "images/b.png", *masks)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(problems[-1])


def test_init_names_masks_in_a_format_that_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "images/a.png", "images/b.png", "masks/a.webp")
    result = CliRunner().invoke(init, ["images", "--masks", "masks"])
    assert "masks/a.webp cannot be read as masks" in str(result.exception)
