"""An ML backend of Label Studio: its server asks for predictions, and gets the run's calibrated labels.

The protocol is that of label-studio-ml: GET /health, POST /setup, /predict and /webhook, with JSON. The package itself
needs a queue and a web framework to serve one function, so it is not used.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from xml.etree import ElementTree

from pipeline.errors import ConfigError, UserError
from pipeline.exchange.label_studio import prediction
from pipeline.serving.labels_by_file import LabelsByFile

log = logging.getLogger(__name__)

LARGEST_REQUEST = 64 * 2**20  # bytes
BRUSH, IMAGE = "BrushLabels", "Image"
ADVICE = "use interface.xml of conformalsam export RUN --to label-studio"


class Controls(NamedTuple):
    """What a labeling interface calls the brush and the image.

    brush, image: names of the tags
    data_key:     key of the image in the data of a task
    labels:       names of the brush's labels
    """

    brush: str
    image: str
    data_key: str
    labels: frozenset[str]


def controls_of(interface: str) -> Controls:
    """Read a labeling interface; ConfigError if it is no XML, or has no <BrushLabels> on an <Image>."""
    try:
        root = ElementTree.fromstring(interface)  # nosec B314: from the user's own Label Studio
    except ElementTree.ParseError as error:
        raise ConfigError(f"the labeling interface is no XML ({error}); {ADVICE}") from None
    images = {tag.get("name", ""): tag.get("value", "").lstrip("$") for tag in root.iter(IMAGE)}
    for brush in root.iter(BRUSH):
        image = brush.get("toName", "")
        if image in images:
            labels = frozenset(label.get("value", "") for label in brush.iter("Label"))
            return Controls(brush.get("name", ""), image, images[image], labels)
    raise ConfigError(f"the labeling interface has no <{BRUSH}> on an <{IMAGE}>; {ADVICE}")


def predictions(labels: LabelsByFile, request: Mapping[str, Any], version: str) -> list[dict[str, Any]]:
    """A prediction for each task of a request; an empty one, with a line in the log, if the run has no such image.

    raises: ConfigError for a request that is not that of Label Studio
    """
    tasks, interface = request.get("tasks"), request.get("label_config")
    if not isinstance(tasks, list) or not isinstance(interface, str):
        raise ConfigError("a request for predictions needs `tasks` and `label_config`, as Label Studio sends them")
    controls = controls_of(interface)
    return [_prediction(labels, controls, task, version) for task in tasks]


def _prediction(labels: LabelsByFile, controls: Controls, task: Any, version: str) -> dict[str, Any]:
    data = task.get("data") if isinstance(task, dict) else None
    name = data.get(controls.data_key) if isinstance(data, dict) else None
    try:
        if not isinstance(name, str):
            raise ConfigError(f"a task has no {controls.data_key!r} in its data, which the labeling interface names")
        label = labels.label(name)
    except UserError as error:
        log.warning("%s", error)
        return {"model_version": version, "score": 0.0, "result": []}
    names = labels.exported.class_names
    return prediction(label, names, controls.brush, controls.image, version, controls.labels)


class Backend(ThreadingHTTPServer):
    """Serves the labels of a run at an address of this machine until it is shut down."""

    daemon_threads = True

    def __init__(self, labels: LabelsByFile, host: str, port: int) -> None:
        self.labels = labels
        self.version = f"{labels.exported.store.path.parent.name}, alpha {labels.exported.alpha:g}"
        super().__init__((host, port), _Handler)


def open_backend(labels: LabelsByFile, host: str, port: int) -> Backend:
    """A backend that listens; ConfigError if the address cannot be used."""
    try:
        return Backend(labels, host, port)
    except OSError as error:
        problem = error.strerror or str(error)
        raise ConfigError(f"cannot listen on {host}:{port}: {problem}; choose another, or --port 0") from None


class _Handler(BaseHTTPRequestHandler):
    server: Backend

    def do_GET(self) -> None:
        if self.path in ("/", "/health"):
            self._answer(200, {"status": "UP", "model_class": "ConformalSAM"})
        else:
            self._unknown()

    def do_POST(self) -> None:
        if self.path == "/setup":
            self._answer(200, {"model_version": self.server.version})
        elif self.path == "/predict":
            self._predict()
        elif self.path == "/webhook":  # about annotations; a run is calibrated again by import-masks
            self._answer(200, {})
        else:
            self._unknown()

    def _predict(self) -> None:
        try:
            found = predictions(self.server.labels, self._request(), self.server.version)
        except UserError as error:
            log.warning("%s", error)
            self._answer(400, {"error": str(error)})
        else:
            self._answer(200, {"results": found, "model_version": self.server.version})

    def _request(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LARGEST_REQUEST:
            raise ConfigError(f"a request has {length or 'unknown'} bytes; at most {LARGEST_REQUEST} are read")
        try:
            found = json.loads(self.rfile.read(int(length)))
        except ValueError as error:
            raise ConfigError(f"a request is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise ConfigError("a request is no mapping, as Label Studio sends it")
        return found

    def _unknown(self) -> None:
        self._answer(404, {"error": f"{self.path} is not /health, /setup, /predict or /webhook"})

    def _answer(self, status: int, content: Mapping[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.info(format, *args)
