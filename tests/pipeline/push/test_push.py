"""Labels and students on the hub: a server on this machine receives the folder; nothing is lost by a refusal."""

import json
import re
import shutil
import threading

import huggingface_hub
import numpy as np
import pytest
from click.testing import CliRunner
from datasets import disable_progress_bars, load_dataset
from hub_server import HubServer
from PIL import Image
from receipts import facts_of
from stage_runs import contents, run_stages
from tiny_run import CLASSES, write_run_file, write_sample_files

from pipeline.__main__ import main
from pipeline.digests import digests_of, unlisted_files
from pipeline.run import Run
from pipeline.run_file import load_settings
from train.students import class_names_of, random_network, save_network

SCORES = {
    "miou": 0.625,
    "miou_interval": {"low": 0.5, "high": 0.75},
    "iou": {"background": 0.5, "cat": None, "dog": 0.75},
}
SCORED = {"num_val": 2, "students": {"stage1": SCORES}, "final": "stage1"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The run file of a run with labels, and with a random student that was measured."""
    folder = tmp_path_factory.mktemp("push")
    write_sample_files(folder / "data", [f"im_{i}" for i in range(10)], masked=[f"im_{i}" for i in range(8)])
    run_file = write_run_file(folder)
    settings = load_settings(run_file)
    run = Run(settings)
    run_stages(settings)
    save_network(random_network("tiny", CLASSES), run.folder.student("stage1"))
    files = digests_of(run.folder.training("stage1"), run.folder.student("stage1").glob("*"))
    made_by = run.recorded("pseudolabel")["fingerprint"]
    run.finish("stage1", facts_of("stage1", labels_fingerprint=made_by, files=files, num_steps=7))
    run.finish("evaluate", facts_of("evaluate", **SCORED, weights={"stage1": run.student_digest("stage1")}))
    return run_file


@pytest.fixture
def hub(monkeypatch):
    """A hub on this machine, and a token for it."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    huggingface_hub.close_session()
    yield server
    huggingface_hub.close_session()
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.fixture
def push(finished):
    def call(*words, code=0):
        done = CliRunner().invoke(main, ["push", str(finished), *words])
        assert isinstance(done.exception, SystemExit | None), done.exception
        assert done.exit_code == code, done.output
        return done.output

    return call


@pytest.fixture
def folder(finished):
    """Returns the folder of what is uploaded."""
    return Run(load_settings(finished)).folder.push


def uploaded(hub, kind, name):
    """Files of the only commit of a repository."""
    (commit,) = hub.repositories[kind, name]["commits"]
    return commit


def as_uploaded(folder):
    return {path.as_posix(): content for path, content in contents(folder).items()}


def test_labels_arrive_as_a_private_data_set_that_the_standard_reader_reads(push, hub, folder, finished, tmp_path):
    said = push("me/street", "--what", "labels")
    files = uploaded(hub, "datasets", "me/street")
    assert files == as_uploaded(folder("labels"))
    assert hub.repositories["datasets", "me/street"]["private"]
    assert ("/api/datasets/me/street/commit/main", "Bearer hf_of_a_test") in hub.tokens
    assert {name.partition("/")[0] for name in files} == {
        *("README.md", "id2label.json", "labels", "metadata.jsonl", "provenance.json")
    }  # no images
    total = sum(map(len, files.values()))
    assert f"{folder('labels')}: {len(files)} files, {total:,} bytes" in said
    assert "to me/street, a private dataset repository" in said
    assert f"uploaded: {hub.address}/datasets/me/street (private)" in said
    assert str(finished.parent).encode() not in b"".join(files.values())  # folders of this machine stay on it

    disable_progress_bars()
    for name, content in files.items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(content)
    data = load_dataset(str(tmp_path / "copy"), split="train", cache_dir=str(tmp_path / "cache"))
    assert (data["id"], set(data.column_names)) == (["im_8", "im_9"], {"label", "id", "keep_rate", "pixels"})
    for row in data:
        with Image.open(folder("labels") / f"labels/{row['id']}.png") as label:
            assert np.array_equal(np.array(row["label"]), np.array(label))

    card, facts = files["README.md"].decode(), json.loads(files["provenance.json"])
    precision = facts["held_out"]["precision"]
    assert (
        f"| precision on held-out labeled images | {precision['value']:.3f} (95 % interval {precision['low']:.3f}"
        in card
    )
    assert "| calibration | variant pixel, alpha 0.2, rule paper, 6 labeled images |" in card
    assert re.search(r"\| guarantee \| .* with a probability of 80\s?%.* or more\. \|", card)
    assert "conformalsam " in card
    assert "| coverage target | 0.8 |" in card
    assert "ICCV 2025" in card


def test_images_are_uploaded_if_that_is_asked_for(push, hub, finished):
    push("me/street", "--what", "labels", "--with-images", "--public", "--license", "cc-by-4.0")
    files = uploaded(hub, "datasets", "me/street")
    assert files["images/im_8.png"] == (finished.parent / "data/images/im_8.png").read_bytes()
    assert not hub.repositories["datasets", "me/street"]["private"]
    card = files["README.md"].decode()
    assert card.startswith("---\nlicense: cc-by-4.0\ntask_categories:")
    assert "cc-by-4.0, as stated by whoever uploaded this." in card
    assert "--license is 'CC BY', expected an identifier as the hub lists them" in push(
        "me/street", "--what", "labels", "--license", "CC BY", code=1
    )
    assert "--with-images is for labels" in push("me/street", "--what", "student", "--with-images", code=1)


def test_a_student_arrives_as_a_model_with_its_scores(push, hub, folder, finished):
    said = push("me/net", "--what", "student")
    files = uploaded(hub, "models", "me/net")
    student = Run(load_settings(finished)).folder.student("stage1")
    assert files == as_uploaded(folder("student"))
    assert files["model.safetensors"] == (student / "model.safetensors").read_bytes()
    assert len(hub.storage) == 1  # the large file did not go through the commit
    assert unlisted_files(folder("student")) == []
    assert class_names_of(folder("student")) == CLASSES
    card = files["README.md"].decode()
    assert "| mIoU on 2 val images | 0.625 (95 % interval 0.500 to 0.750) |" in card
    assert "| 1 | cat | not measured |" in card
    assert "| 2 | dog | 0.750 |" in card
    assert "6 images labeled by people and on calibrated pseudo-labels of 2 images" in card
    assert "| calibration | variant pixel, alpha 0.2, rule paper, 6 labeled images |" in card
    assert "hf download me/net" in card
    assert card.startswith("---\n# license: none is stated; it depends on the images,")
    assert "No licence is stated. Without one, nobody but its owners may use or share this." in card
    assert f"uploaded: {hub.address}/me/net (private)" in said


def test_a_dry_run_writes_the_folder_and_reaches_no_server(push, hub, folder):
    shutil.rmtree(folder("student"), ignore_errors=True)
    said = push("me/net", "--what", "student", "--dry-run")
    assert not hub.repositories
    assert "nothing was uploaded; to upload: conformalsam push " in said
    assert (folder("student") / "README.md").is_file()


@pytest.mark.parametrize("weights", [{"stage1": "0123456789abcdef"}, {}])
def test_scores_of_another_student_are_not_uploaded(push, finished, weights):
    run = Run(load_settings(finished))
    path = run.folder.receipt("evaluate")
    receipt = path.read_bytes()
    run.finish("evaluate", facts_of("evaluate", **SCORED, weights=weights))
    try:
        assert not run.is_current("evaluate")
        said = push("me/net", "--what", "student", "--dry-run", code=1)
    finally:
        path.write_bytes(receipt)
    assert run.is_current("evaluate")
    assert f"{path} has the scores of another student of stage1 than {run.folder.student('stage1')}, or does" in said
    assert re.search(r"; run snakemake --cores 8 evaluate -R evaluate --config run=\S+\n$", said)


@pytest.mark.parametrize(
    ("part", "status", "expected"),
    [
        (
            "create",
            401,
            r"http://127.0.0.1:\d+ does not accept the access token \(401\); \S+ is complete; log in with hf",
        ),
        ("create", 403, r"the access token may not write there \(403 of .*; name a repository of your own"),
        ("create", 500, r"answered 500.*; wait a while, then run"),
        ("commit", 403, r"the access token may not write there"),
        ("storage", 403, r"the access token may not write there"),
    ],
)
def test_a_refusal_is_one_line_and_the_folder_is_ready(push, hub, folder, part, status, expected):
    hub.refusals = {part: status}
    said = push("me/net", "--what", "student", "--public", code=1)
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert re.search(rf"nothing was uploaded to me/net: .*{expected}", error)
    assert re.search(r", then run conformalsam push \S+ me/net --what student --public$", error)
    assert said.endswith(f"{error}\n")
    assert unlisted_files(folder("student")) == []
    assert not any(repository["commits"] for repository in hub.repositories.values())


def test_without_network_or_token_the_folder_is_ready(push, hub, folder, monkeypatch):
    words = ("me/net", "--what", "student")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in push(*words, code=1)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    assert "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set; " in push(*words, code=1)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(folder("student") / "no token"))
    assert "no access token of the hub is stored on this machine; " in push(*words, code=1)
    assert unlisted_files(folder("student")) == []


def test_a_public_repository_gets_nothing_that_was_not_called_public(push, hub):
    hub.repositories["models", "me/net"] = {"private": False, "commits": []}
    said = push("me/net", "--what", "student", code=1)
    assert f"{hub.address}/me/net exists and is public; " in said
    assert hub.repositories["models", "me/net"]["commits"] == []
    assert "(public)" in push("me/net", "--what", "student", "--public")


@pytest.mark.parametrize("name", ["street", "me/a/b", "me/street labels", "me/a--b", "../x", "me/x.git"])
def test_a_malformed_repository_is_refused_before_anything_is_written(push, folder, name):
    shutil.rmtree(folder("student"), ignore_errors=True)
    assert f"{name!r} is not a repository of the hub: write USER/NAME" in push(name, "--what", "student", code=1)
    assert not folder("student").exists()
