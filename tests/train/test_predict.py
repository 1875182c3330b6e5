from pathlib import Path

import numpy as np
import pytest
import torch
from advice import options_in
from click.testing import CliRunner
from killed_writer import leave_half_written
from PIL import Image

from pipeline.errors import ConfigError, DatasetError, NetworkError, TrainingError
from pipeline.palette import class_colours
from pipeline.settings import EvaluateSettings
from train.__main__ import main
from train.measure.inference import class_scores
from train.predict import Request, image_files, open_student, predict, settings_for, settings_of
from train.students import random_network, save_network

NAMES = ["background", "cat", "dog"]
SIZES = {"a.png": (40, 52), "deep/b.jpg": (33, 35), "deep/er/c.bmp": (32, 48)}
ONE_PROCESS = EvaluateSettings(workers=0)


@pytest.fixture
def folder(tmp_path):
    """Three images in nested folders, and files that are not images."""
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    (tmp_path / "images/notes.txt").write_text("no image")
    (tmp_path / "images/._a.png").write_bytes(b"a hidden file that some file systems create")
    return tmp_path / "images"


@pytest.fixture
def student(tmp_path):
    return make_student(tmp_path / "student", seed=0)


def make_student(folder, seed):
    torch.manual_seed(seed)
    network = random_network("tiny", NAMES)
    torch.nn.init.normal_(network.decode_head.classifier.weight)  # so that it predicts more than one class
    save_network(network, folder)
    return folder


def request_of(folder, student, out, **options):
    return Request(folder, out, student, options.pop("settings", ONE_PROCESS), "cpu", **options)


def test_every_image_gets_a_palette_png_of_class_indices_in_its_sub_folder(folder, student, tmp_path):
    out = tmp_path / "out"
    assert predict(request_of(folder, student, out)) == 3
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert written == ["a.png", "classes.txt", "deep/b.png", "deep/er/c.png"]
    assert (out / "classes.txt").read_text().splitlines() == NAMES
    network, names = open_student(student, "cpu")
    assert names == NAMES
    classes = set()
    for name, size in SIZES.items():
        pixels = np.asarray(Image.open(folder / name).convert("RGB"))
        expected = network.classes(torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy()))[0].numpy()
        with Image.open((out / name).with_suffix(".png")) as drawn:
            assert drawn.mode == "P"
            assert drawn.size == size[::-1]
            assert drawn.getpalette()[:9] == class_colours(3, background=0).ravel().tolist()
            assert np.array_equal(np.asarray(drawn), expected)
        classes |= set(np.unique(expected).tolist())
    assert len(classes) > 1


def test_probabilities_are_written_beside_as_float16(folder, student, tmp_path):
    out, settings = tmp_path / "out", EvaluateSettings(workers=0, window=32, flips=True)
    predict(request_of(folder, student, out, settings=settings, has_probabilities=True))
    array = np.load(out / "deep/b.npy")
    pixels = np.asarray(Image.open(folder / "deep/b.jpg").convert("RGB"))
    scores = class_scores(
        open_student(student, "cpu")[0], torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy()), settings
    )
    assert array.dtype == np.float16
    np.testing.assert_allclose(array, scores[0].numpy(), atol=1e-3)
    assert np.array_equal(np.asarray(Image.open(out / "deep/b.png")), scores[0].argmax(dim=0).numpy())


def test_only_an_image_that_is_too_large_to_be_predicted_whole_gets_a_window():
    large, small = (torch.empty((1, 3, *size), device="meta") for size in [(9000, 12000), (4000, 6000)])
    assert settings_for(large, ONE_PROCESS).window == 1024
    assert settings_for(large, EvaluateSettings(window=512)).window == 512
    assert settings_for(small, ONE_PROCESS).window is None


def test_existing_predictions_are_kept_and_missing_ones_are_written(folder, student, tmp_path, caplog):
    out = tmp_path / "out"
    predict(request_of(folder, student, out))
    (out / "deep/b.png").unlink()
    before = (out / "a.png").stat().st_mtime_ns
    with caplog.at_level("INFO"):
        assert predict(request_of(folder, student, out)) == 1
    assert "predict: 3 images, 2 of them done before" in caplog.text
    assert (out / "a.png").stat().st_mtime_ns == before
    assert predict(request_of(folder, student, out, overwrite=True)) == 3
    assert (out / "a.png").stat().st_mtime_ns > before
    assert predict(request_of(folder, student, out, has_probabilities=True)) == 3
    assert predict(request_of(folder, student, out, has_probabilities=True)) == 0


def test_predictions_of_another_student_or_of_other_options_are_refused(folder, student, tmp_path):
    out = tmp_path / "out"
    predict(request_of(folder, student, out))
    another = make_student(tmp_path / "another", seed=1)
    for request in (
        request_of(folder, another, out),
        request_of(folder, student, out, settings=EvaluateSettings(workers=0, flips=True)),
    ):
        with pytest.raises(
            TrainingError, match=r"a.png was not made by .* give another folder as OUT, or add --overwrite"
        ):
            predict(request)
    same = request_of(folder, student, out, settings=EvaluateSettings(workers=1, batch_size=9, num_examples=6))
    assert predict(same) == 0
    assert predict(request_of(folder, another, out, overwrite=True)) == 3


def test_a_killed_run_goes_on_and_what_it_left_is_no_prediction(folder, student, tmp_path):
    out = tmp_path / "out"
    predict(request_of(folder, student, out))
    whole = (out / "deep/b.png").read_bytes()
    (out / "deep/b.png").unlink()
    left = leave_half_written(out / "deep/b.png", out / "deep/er/gone.npy")
    assert predict(request_of(folder, student, out)) == 1
    assert (out / "deep/b.png").read_bytes() == whole
    assert not any(path.exists() for path in left)
    assert len([path for path in out.rglob("*") if path.is_file()]) == 4  # three predictions and classes.txt


def test_an_unreadable_image_is_named_after_the_others_are_done(folder, student, tmp_path):
    whole = (folder / "a.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    out = tmp_path / "out"
    with pytest.raises(
        TrainingError, match=r"(?s)2 of 5 images cannot be read; .*broken.png cannot be .*empty.png is an empty file"
    ):
        predict(request_of(folder, student, out))
    assert {path.name for path in out.rglob("*.png")} == {"a.png", "b.png", "c.png"}


def test_predictions_inside_the_folder_of_images_do_not_count_as_images(folder, student, monkeypatch):
    out = folder / "predictions"
    assert predict(request_of(folder, student, out)) == 3
    monkeypatch.chdir(folder)
    assert len(image_files(folder, Path("predictions"))) == 3
    assert predict(request_of(folder, student, out)) == 0
    with pytest.raises(DatasetError, match="predictions would overwrite the images"):
        image_files(folder, folder)


def test_folders_without_images_and_two_images_of_one_name_are_refused(folder, tmp_path):
    with pytest.raises(DatasetError, match="nowhere does not exist, expected a folder of images"):
        image_files(tmp_path / "nowhere", tmp_path)
    with pytest.raises(DatasetError, match=r"a.png is a file, expected a folder of images"):
        image_files(folder / "a.png", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"empty holds no image \(.jpg, "):
        image_files(tmp_path / "empty", tmp_path / "out")
    (folder / "a.JPG").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"a.JPG and .*a.png would both become a.png; rename one"):
        image_files(folder, tmp_path / "out")


def test_a_folder_without_a_student_is_refused(folder, tmp_path):
    with pytest.raises(TrainingError, match=r"no student .*nowhere; give a folder such as"):
        open_student(tmp_path / "nowhere", "cpu")
    with pytest.raises(NetworkError, match="holds no segmentation network in transformers format"):
        open_student(folder, "cpu")


def test_options_out_of_range_are_named(student):
    with pytest.raises(ConfigError, match="--scales is '1,x', expected numbers separated by commas"):
        settings_of(scales="1,x")
    with pytest.raises(ConfigError, match="--scales: Input should be greater than 0, got 0"):
        settings_of(scales="1,0")
    with pytest.raises(ConfigError, match=r"stride is 50, but window is 40; lower stride to the window or less$"):
        settings_of(scales="1", window=40, stride=50)
    with pytest.raises(ConfigError, match=r"--device: .* got gpu"):
        open_student(student, "gpu")


def test_the_command_writes_predictions_and_exits_with_1_on_an_error(folder, student, tmp_path):
    arguments = ["predict", str(folder), str(tmp_path / "out"), "--student", str(student), "--device", "cpu"]
    options = ["--window", "32", "--flips", "--scales", "1,1.5", "--workers", "0"]
    done = CliRunner().invoke(main, arguments + options)
    assert done.exit_code == 0, done.output
    assert f"wrote 3 predictions to {tmp_path / 'out'}" in done.output
    (folder / "broken.png").write_bytes(b"")
    failed = CliRunner().invoke(main, arguments + options)
    assert failed.exit_code == 1
    assert "error: 1 of 4 images cannot be read" in failed.output


def test_the_options_of_the_messages_help(folder, student, tmp_path):
    words = [
        "predict",
        str(folder),
        str(tmp_path / "out"),
        "--student",
        str(student),
        "--device",
        "cpu",
        "--workers",
        "0",
    ]

    def call(*options):
        done = CliRunner().invoke(main, [*words, *options])
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done

    refused = call("--max-pixels", "1200")
    assert refused.exit_code == 1
    assert call("--max-pixels", "1200", *options_in(refused.output)).exit_code == 0
    refused = call("--flips")
    assert refused.exit_code == 1
    assert call("--flips", *options_in(refused.output)).exit_code == 0
