"""The backend over HTTP; its brush strokes, decoded by the reader of exports, are the labels."""

import functools
import json
import logging
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.run_file import load_settings
from pipeline.serving.label_studio import open_backend
from pipeline.serving.labels_by_file import labels_of
from pipeline.sources.annotations.label_studio import brush_stroke

ROOT = Path(__file__).parents[3]
INTERFACE = """<View><Image name="photo" value="$picture"/><BrushLabels name="tag" toName="photo">
<Label value="background"/><Label value="cat"/><Label value="dog"/></BrushLabels></View>"""


@pytest.fixture(scope="module")
def backend(run_file):
    with open_backend(labels_of(load_settings(run_file)), "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def ask(backend):
    def ask(path, content=None):
        data = content if isinstance(content, bytes | None) else json.dumps(content).encode()
        with urlopen(Request(f"http://127.0.0.1:{backend.server_port}{path}", data)) as answer:
            return json.load(answer)

    return ask


def tasks_of(*names):
    return [{"id": i, "data": {"picture": name}} for i, name in enumerate(names)]


def test_is_up_and_says_which_labels_it_serves(ask):
    assert ask("/health") == {"status": "UP", "model_class": "ConformalSAM"}
    assert ask("/setup", {"project": "1.1"}) == {"model_version": "tiny, alpha 0.2"}
    assert ask("/webhook", {"action": "ANNOTATION_CREATED"}) == {}


def test_predictions_are_the_labels_however_the_file_is_named(ask, exported):
    image = exported.samples[1].image
    names = [
        image,
        f"/data/upload/7/0123abcd-{Path(image).name}",
        f"/data/local-files/?d=photos/{image}",
        f"https://bucket.example/{image}?signature=1",
    ]
    answer = ask("/predict", {"tasks": tasks_of(*names), "label_config": INTERFACE})
    assert answer["model_version"] == "tiny, alpha 0.2"
    label = exported.label(1)
    for prediction in answer["results"]:
        found = np.full(label.shape, 255)
        for region in prediction["result"]:
            assert (region["from_name"], region["to_name"], region["type"]) == ("tag", "photo", "brushlabels")
            assert (region["original_height"], region["original_width"]) == label.shape
            (name,) = region["value"]["brushlabels"]
            found[brush_stroke(region["value"]["rle"], *label.shape)] = exported.class_names.index(name)
        assert np.array_equal(found, label)
        assert prediction["score"] == pytest.approx((label != 255).mean())


def test_labels_that_the_interface_lacks_are_left_out(ask, exported):
    interface = INTERFACE.replace('<Label value="background"/>', "")
    answer = ask("/predict", {"tasks": tasks_of(exported.samples[0].image), "label_config": interface})
    labels = {region["value"]["brushlabels"][0] for region in answer["results"][0]["result"]}
    assert labels == {"cat", "dog"}


def test_an_image_that_is_not_of_the_run_has_no_prediction_and_the_log_says_so(ask, exported, caplog):
    with caplog.at_level(logging.WARNING):
        answer = ask("/predict", {"tasks": tasks_of("far.png", exported.samples[0].image), "label_config": INTERFACE})
    assert [bool(prediction["result"]) for prediction in answer["results"]] == [False, True]
    assert "far.png is no unlabeled image of the run" in caplog.text


@pytest.mark.parametrize(
    ("path", "content", "status", "message"),
    [
        ("/predict", b"{", 400, "no JSON"),
        ("/predict", [1], 400, "no mapping"),
        ("/predict", {"tasks": []}, 400, "needs `tasks` and `label_config`"),
        ("/predict", {"tasks": [], "label_config": "<View"}, 400, "is no XML"),
        ("/predict", {"tasks": [], "label_config": "<View/>"}, 400, "has no <BrushLabels> on an <Image>"),
        ("/train", {}, 404, "/train is not /health"),
        ("/elsewhere", None, 404, "/elsewhere is not /health"),
    ],
)
def test_a_request_of_something_else_is_refused(ask, path, content, status, message):
    with pytest.raises(HTTPError) as refused:
        ask(path, content)
    assert refused.value.code == status
    assert message in json.load(refused.value)["error"]


def test_a_port_in_use_is_named(run_file, backend):
    with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{backend.server_port}: .*--port 0"):
        open_backend(backend.labels, "127.0.0.1", backend.server_port)


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(run_file):
    words = [sys.executable, "-m", "pipeline", "serve", str(run_file), "--port", "0"]
    # a process that was started in the background of a shell ignores SIGINT, and so would its children
    heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=heeds) as process:
        address = re.search(r"http://\S+", process.stderr.readline())[0]
        with urlopen(f"{address}/health") as answer:
            assert json.load(answer)["status"] == "UP"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert "stopped" in process.stderr.read()
