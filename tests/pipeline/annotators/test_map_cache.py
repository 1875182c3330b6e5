"""The maps that runs share: an image is annotated once, whatever runs and processes use it, and no map is stale."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from stage_runs import contents, run_stages
from tiny_run import write_run_file

from pipeline.__main__ import main
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.store import MapCache, open_probabilities

ROOT = Path(__file__).parents[3]
IDS = [f"im{i:02d}" for i in range(14)]


@pytest.fixture
def make(tmp_path, write_images):
    """Settings of a run whose annotator writes a line for each image into tmp_path/calls."""
    write_images(tmp_path / "data", IDS)

    def make(name="tiny", **overrides):
        python = {"factory": "noisy_annotator:build", "arguments": {"log": str(tmp_path / "calls")}}
        section = {"annotator": "python", "python": python, "class_check": "warn", "batch_size": 2}
        return load_settings(write_run_file(tmp_path, annotate=section, name=name), overrides)

    return make


def calls(tmp_path):
    """Number of calls of the annotator by image."""
    path = tmp_path / "calls"
    return Counter(path.read_text().split()) if path.exists() else Counter()


def rows(settings):
    """Name of each row -> its bytes; what a killed process left half-written is none."""
    files = contents(settings.cache_folder).items()
    return {path.name: content for path, content in files if path.parts[1] == "rows" and ".part" not in path.name}


def test_splits_and_seeds_of_a_data_set_annotate_each_image_once(make, tmp_path):
    settings = [make(f"run{seed}", **{"splits.seed": seed, "seed": seed}) for seed in range(3)]
    for one in settings:
        run_stages(one, "prepare", "annotate")
    assert len({frozenset(s.id for s in Run(one).samples().of("labeled")) for one in settings}) == 3
    assert sorted(calls(tmp_path).values()) == [1] * 14  # each split leaves other images out: those of val
    for one in settings:
        store = open_probabilities(one.folder / "probs.zarr")
        for i in range(len(store.sample_ids)):
            assert store.chunk(i).stat().st_ino == MapFiles(one)[store.image_digests[i]].stat().st_ino


class MapFiles(dict):
    """Digest -> file of each row."""

    def __init__(self, settings):
        super().__init__({path.name: path for path in settings.cache_folder.glob("*/rows/??/*")})


def test_new_and_changed_images_are_made_and_a_stale_row_is_never_used(make, tmp_path, write_images):
    settings = make()
    run_stages(settings)
    before, labels = rows(settings), contents(settings.folder / "labels.zarr")
    write_images(tmp_path / "data", [*IDS, *(f"more{i}" for i in range(5))])
    Image.fromarray(np.full((24, 32, 3), 7, np.uint8)).save(tmp_path / "data/images/im00.png")
    made = sum(calls(tmp_path).values())
    run_stages(settings)
    assert sum(calls(tmp_path).values()) - made == 6
    after = rows(settings)
    assert after.items() >= before.items()
    assert len(after) == len(before) + 6
    assert contents(settings.folder / "labels.zarr") != labels
    again = make(results=str(tmp_path / "again"))
    run_stages(again)
    assert contents(again.folder / "labels.zarr") == contents(settings.folder / "labels.zarr")


def test_damaged_rows_are_made_again_and_a_removed_run_leaves_its_maps(make, tmp_path, caplog):
    settings = make()
    run_stages(settings, "prepare", "annotate")
    before, made = rows(settings), sum(calls(tmp_path).values())
    shutil.rmtree(settings.folder)
    changed, cut, emptied, *_ = MapFiles(settings).values()
    content = bytearray(changed.read_bytes())
    content[20] ^= 4
    changed.write_bytes(content)
    os.truncate(cut, 3)
    os.truncate(emptied, 0)
    run_stages(settings, "prepare", "annotate")
    for row in (changed, cut, emptied):
        assert f"annotate: {row} is damaged and is made again" in caplog.messages
    assert sum(calls(tmp_path).values()) - made == 3
    assert rows(settings) == before


def test_claims_of_killed_processes_are_removed_and_others_stay(make):
    settings = make()
    run_stages(settings, "prepare", "annotate")
    shutil.rmtree(settings.folder / "probs.zarr")
    cache = MapCache(next(settings.cache_folder.iterdir()))
    (cache.folder / "claims/killed").touch()
    with cache:
        assert cache.claim("alive")
        run_stages(settings, "annotate")
        assert [path.name for path in cache.folder.glob("claims/*")] == ["alive"]


def start(settings, log):
    """annotate in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}"}
    arguments = f"annotate.python.arguments={{seconds: 0.02, log: {log}}}"
    command = [sys.executable, "-m", "pipeline", "annotate", settings.origin.run, "--set", f"name={settings.name}"]
    return subprocess.Popen([*command, "--set", arguments], env=environment, stderr=subprocess.DEVNULL)


def prepared_runs(make, number):
    """Settings of runs of the same images."""
    settings = [make(f"run{i}") for i in range(number)]
    for one in settings:
        run_stages(one, "prepare")
    return settings


def maps_of_all(settings):
    return [contents(one.folder / "probs.zarr/logits") for one in settings]


@pytest.mark.slow
def test_processes_at_the_same_time_share_the_work(make, tmp_path):
    settings = prepared_runs(make, 3)
    processes = [start(one, tmp_path / "calls") for one in settings]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert sorted(calls(tmp_path).values()) == [1] * 12
    assert not list(settings[0].cache_folder.glob("*/claims/*"))
    alone = make("alone", cache=str(tmp_path / "alone"))
    run_stages(alone, "prepare", "annotate")
    assert maps_of_all(settings) == 3 * maps_of_all([alone])


@pytest.mark.slow
def test_processes_that_are_killed_at_random_lose_and_repeat_at_most_what_they_were_making(make, tmp_path):
    runs = prepared_runs(make, 4)
    kills, rng = 0, random.Random(0)
    for number in range(3):
        log = tmp_path / f"calls{number}"
        shutil.rmtree(runs[0].cache_folder, ignore_errors=True)
        for one in runs:
            shutil.rmtree(one.folder / "probs.zarr", ignore_errors=True)
            Run(one).folder.receipt("annotate").unlink(missing_ok=True)
        running = [start(one, log) for one in runs]
        for _ in range(5):
            time.sleep(rng.uniform(0.2, 1.2))
            i = rng.randrange(4)
            if running[i].poll() is None:
                running[i].send_signal(signal.SIGKILL)
                kills += 1
            running[i].wait()
            running[i] = start(runs[i], log)
        assert [process.wait() for process in running] == [0] * 4
        if number == 0:
            expected = maps_of_all(runs)
        assert maps_of_all(runs) == expected
        assert len(rows(runs[0])) == 12
    assert kills >= 6


def cache_of(settings):
    """Name of the cache that a run is linked to."""
    return Path(Run(settings).recorded("annotate")["cache"]["folder"]).name


def cache_command(settings, *words):
    return CliRunner().invoke(main, ["cache", words[0], settings.origin.run, *words[1:]])


def test_the_cache_is_listed_verified_and_pruned(make, tmp_path):
    settings, other = make(), make("other", **{"python.arguments": {"stride": 4}})
    for one in (settings, other):
        run_stages(one, "prepare", "annotate")
    shutil.rmtree(other.folder)
    listed = cache_command(settings, "list").output.splitlines()
    assert sorted(line.split()[1:8] for line in listed[1:3]) == [
        ["3", "4", "x", "6", "float16", "12", "0"],
        ["3", "8", "x", "12", "float16", "12", "12"],
    ]
    assert "all maps have their checksums" in cache_command(settings, "verify").output
    pruned = cache_command(settings, "prune")
    assert sorted(line.split(": ")[1].split(",")[0] for line in pruned.output.splitlines()) == [
        "0 images removed",
        "12 images removed",
    ]
    assert [path.name for path in settings.cache_folder.iterdir()] == [cache_of(settings)]
    row = next(iter(MapFiles(settings).values()))
    row.write_bytes(row.read_bytes()[:-1])
    broken = cache_command(settings, "verify")
    assert (broken.exit_code, f"damaged: {row}" in broken.output) == (1, True)
    assert cache_command(settings, "verify", "--repair").exit_code == 0
    assert not row.exists()
    assert "has no nothing, but" in cache_command(settings, "prune", "--maps", "nothing").output
    before = contents(settings.folder)
    cache_command(settings, "prune", "--all")
    assert list(settings.cache_folder.iterdir()) == []
    assert contents(settings.folder) == before


def test_a_cache_in_use_is_not_pruned(make):
    settings = make()
    run_stages(settings, "prepare", "annotate")
    cache = MapCache(next(settings.cache_folder.iterdir()))
    assert cache.claim("0" * 16)
    refused = cache_command(settings, "prune", "--all")
    assert (refused.exit_code, "a process writes maps to" in refused.output) == (1, True)
    cache.release(["0" * 16])
    assert cache_command(settings, "prune", "--all").exit_code == 0
