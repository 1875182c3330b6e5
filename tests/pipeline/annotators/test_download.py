"""Downloads from a local server in place of the hub: correct bytes, resumption, and one line for every failure."""

import hashlib
import logging
import os
import random
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import pytest
from click.testing import CliRunner

from pipeline.__main__ import main
from pipeline.annotators.download import CHECKPOINTS, TOKENIZER, TOKENIZER_FILES, Published, download
from pipeline.errors import DownloadError

ROOT = Path(__file__).parents[3]
NAME, FILE = "seem-tiny-v1", "seem_tiny_v1.pt"
WEIGHTS = random.Random(0).randbytes(300_000)
CUT = 100_000
COMMIT = "d" * 40
SEEM = f"https://huggingface.co/xdecoder/SEEM/tree/{COMMIT}"


def published(weights: bytes) -> Published:
    return Published("xdecoder/SEEM", FILE, len(weights), hashlib.sha256(weights).hexdigest(), COMMIT)


TINY = published(WEIGHTS)
PAGE = f"https://huggingface.co/{TOKENIZER}/tree/{TOKENIZER_FILES[0].revision}"
REVISION = TOKENIZER_FILES[0].revision
TINY_TOKENIZER = [
    file._replace(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    for file in TOKENIZER_FILES
    for content in [f"this is {file.file}".encode()]
]


class Request(NamedTuple):
    method: str
    file: str
    range: str | None
    sent: int  # bytes of the body


class Hub:
    """What the server offers, its faults, and the requests that it got."""

    def __init__(self, servers: "list[Server]"):
        self.url, self.storage_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
        self.files = {
            f"/{TOKENIZER}/resolve/{REVISION}/{file.file}": f"this is {file.file}".encode() for file in TINY_TOKENIZER
        }
        self.offered = TINY
        self.stored = WEIGHTS
        self.refusal: tuple[int, dict[str, str]] | None = None
        self.commit = {"X-Repo-Commit": "c" * 40}
        self.cuts: list[int] = []  # the next transfers of the checkpoint end after this number of bytes
        self.knows_ranges = True
        self.requests: list[Request] = []

    def gets_of_the_checkpoint(self) -> list[Request]:
        return [request for request in self.requests if (request.method, request.file) == ("GET", FILE)]


class Server(ThreadingHTTPServer):
    hub: Hub


class Handler(BaseHTTPRequestHandler):
    """Two servers, as with the hub: requests for a large file are redirected to a storage at another address."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 10
    wbufsize = -1  # header and body are sent together; otherwise each answer waits 40 ms for an acknowledgement

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server.hub
        if self.path == "/stored":
            self.send_stored(hub)
        elif hub.refusal is not None:
            self.send(hub.refusal[0], hub.refusal[1], b"no")
        elif self.path == f"/xdecoder/SEEM/resolve/{COMMIT}/{FILE}":
            linked = {"X-Linked-Size": str(hub.offered.size), "X-Linked-Etag": f'"{hub.offered.sha256}"'}
            self.send(302, {"Location": f"{hub.storage_url}/stored", **linked, **hub.commit}, b"")
        elif self.path in hub.files:
            self.send(200, {"ETag": '"0123"', **hub.commit}, hub.files[self.path])
        else:
            self.send(404, {"X-Error-Code": "EntryNotFound", **hub.commit}, b"")

    def send_stored(self, hub: Hub) -> None:
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        cut = hub.cuts.pop(0) if hub.cuts else None
        if start and hub.knows_ranges:
            ranges = {"Content-Range": f"bytes {start}-{len(hub.stored) - 1}/{len(hub.stored)}"}
            self.send(206, ranges, hub.stored[start:], cut)
        else:
            self.send(200, {}, hub.stored, cut)

    def send(self, status: int, headers: dict[str, str], body: bytes, cut: int | None = None) -> None:
        sent = b"" if self.command == "HEAD" else body[:cut]
        if status != 302 or self.command == "HEAD":
            file = FILE if self.path == "/stored" else self.path.rpartition("/")[2]
            self.server.hub.requests.append(Request(self.command, file, self.headers["Range"], len(sent)))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)
        self.close_connection = cut is not None

    def log_message(self, format: str, *arguments: Any) -> None:
        """The requests are recorded in the hub, not on stderr."""


@pytest.fixture(autouse=True)
def only_this_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No proxy, no telemetry, no token, no name resolution: only 127.0.0.1 can be reached."""
    look_up = socket.getaddrinfo

    def look_up_here(host: Any, *arguments: Any, **options: Any) -> Any:
        assert host == "127.0.0.1", f"a test wants to reach {host}"
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for variable in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(variable)
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


@pytest.fixture
def hub() -> Iterator[Hub]:
    servers = [Server(("127.0.0.1", 0), Handler) for _ in range(2)]
    hub = Hub(servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in servers]
    for server, thread in zip(servers, threads, strict=True):
        server.hub = hub
        thread.start()
    yield hub
    huggingface_hub.close_session()
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        thread.join(10)
        server.server_close()


def fetch(hub: Hub, folder: Path, checkpoint: Published = TINY) -> Path:
    return download(NAME, folder, hub.url, {NAME: checkpoint}, TINY_TOKENIZER)


def failure(hub: Hub, folder: Path, checkpoint: Published = TINY) -> str:
    with pytest.raises(DownloadError) as error:
        fetch(hub, folder, checkpoint)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_checkpoint_and_tokenizer_arrive_with_their_bytes(hub, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = fetch(hub, tmp_path / "new")
    assert path == tmp_path / "new" / FILE
    assert path.read_bytes() == WEIGHTS
    tokenizer = {file.name: file.read_text() for file in (tmp_path / "new/tokenizer").iterdir()}
    assert tokenizer == {file.file: f"this is {file.file}" for file in TOKENIZER_FILES}
    assert f"{path}: 300000 bytes, sha256 as published" in caplog.messages
    assert "AFL-3.0" in caplog.messages[0]
    assert {file.name for file in path.parent.iterdir()} == {FILE, "tokenizer"}


def test_without_a_folder_it_goes_to_checkpoints(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert download(NAME, None, hub.url, {NAME: TINY}, TINY_TOKENIZER) == Path("checkpoints") / NAME / FILE


def test_a_finished_download_sends_no_request(hub, tmp_path):
    fetch(hub, tmp_path)
    hub.requests.clear()
    fetch(hub, tmp_path)
    assert hub.requests == []


def test_only_the_missing_file_is_fetched(hub, tmp_path):
    fetch(hub, tmp_path)
    (tmp_path / "tokenizer/merges.txt").unlink()
    hub.requests.clear()
    fetch(hub, tmp_path)
    assert {request.file for request in hub.requests} == {"merges.txt"}


def test_an_interrupted_transfer_ends_in_one_line_and_the_next_call_resumes_it(hub, tmp_path):
    hub.cuts = [CUT, 0]
    message = failure(hub, tmp_path)
    assert "cannot be reached" in message
    assert "100000 bytes of it are kept and will not be downloaded again; run this again when it can be" in message
    assert not (tmp_path / FILE).exists()
    hub.requests.clear()
    assert fetch(hub, tmp_path).read_bytes() == WEIGHTS
    assert hub.gets_of_the_checkpoint() == [Request("GET", FILE, f"bytes={CUT}-", len(WEIGHTS) - CUT)]


def test_a_transfer_reconnects_while_connections_bring_bytes(hub, tmp_path, caplog):
    hub.cuts = [CUT, CUT]
    assert fetch(hub, tmp_path).read_bytes() == WEIGHTS
    ranges = [request.range for request in hub.gets_of_the_checkpoint()]
    assert ranges == [None, f"bytes={CUT}-", f"bytes={2 * CUT}-"]
    assert [message.split(" (")[0] for message in caplog.messages] == [
        "connection lost at 100000 bytes",
        "connection lost at 200000 bytes",
    ]


def test_a_server_without_ranges_starts_over(hub, tmp_path):
    hub.cuts, hub.knows_ranges = [CUT, 0], False
    failure(hub, tmp_path)
    assert fetch(hub, tmp_path).read_bytes() == WEIGHTS
    assert hub.gets_of_the_checkpoint()[-1].sent == len(WEIGHTS)


def test_a_transfer_that_was_killed_before_its_check_is_checked_only(hub, tmp_path):
    (tmp_path / f"{FILE}.part").write_bytes(WEIGHTS)
    assert fetch(hub, tmp_path).read_bytes() == WEIGHTS
    assert hub.gets_of_the_checkpoint() == []


def test_a_partial_file_longer_than_the_file_is_not_used(hub, tmp_path):
    (tmp_path / f"{FILE}.part").write_bytes(WEIGHTS + b"more")
    assert fetch(hub, tmp_path).read_bytes() == WEIGHTS


def test_a_file_that_does_not_end_is_cut_off(hub, tmp_path):
    hub.stored = WEIGHTS + bytes(50_000_000)
    assert f"/{FILE} sends more than the 300000 bytes it announced; run this again later" in failure(hub, tmp_path)
    assert (tmp_path / f"{FILE}.part").stat().st_size < 2_000_000
    hub.stored = WEIGHTS
    assert fetch(hub, tmp_path).read_bytes() == WEIGHTS


def test_a_changed_tokenizer_file_is_an_error(hub, tmp_path):
    path = f"/{TOKENIZER}/resolve/{REVISION}/merges.txt"
    hub.files[path] = hub.files[path][::-1]
    assert "merges.txt arrived with sha256" in failure(hub, tmp_path)
    assert not (tmp_path / "tokenizer/merges.txt").exists()


def test_a_file_that_ends_too_early_is_an_error(hub, tmp_path):
    hub.stored = WEIGHTS[:CUT]
    assert f"/{FILE} ends after 100000 of 300000 bytes; run this again later" in failure(hub, tmp_path)


def test_bytes_damaged_in_transit_are_removed(hub, tmp_path):
    hub.stored = WEIGHTS[::-1]
    message = failure(hub, tmp_path)
    sha256 = hashlib.sha256(hub.stored).hexdigest()
    assert f"arrived with sha256 {sha256}, expected {TINY.sha256}: it was damaged in transit and was removed" in message
    assert list(tmp_path.iterdir()) == []
    hub.stored = WEIGHTS
    assert fetch(hub, tmp_path).read_bytes() == WEIGHTS


def test_another_file_on_the_hub_is_an_error_before_the_transfer(hub, tmp_path):
    hub.offered = TINY._replace(sha256="0" * 64)
    message = failure(hub, tmp_path)
    assert f"is another file: 300000 bytes, ETag {'0' * 64}, expected 300000 bytes, sha256 {TINY.sha256}" in message
    assert message.endswith(f"; check HF_ENDPOINT, which is https://huggingface.co, or get the file from {SEEM}")
    assert hub.gets_of_the_checkpoint() == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"short", "has 5 bytes, expected 300000 as published: it is another file or an incomplete copy; move it to"),
        (WEIGHTS[::-1], f"expected {TINY.sha256} as published: it is another file or damaged; move it to another"),
    ],
)
def test_an_existing_file_with_other_content_is_never_overwritten(hub, tmp_path, content, message):
    (tmp_path / FILE).write_bytes(content)
    assert message in failure(hub, tmp_path)
    assert (tmp_path / FILE).read_bytes() == content
    assert hub.requests == []


def test_an_unreachable_hub_lists_the_files_to_download_by_hand(hub, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening: no answer, and no other process can use the port
        hub.url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        (tmp_path / "tokenizer").mkdir()
        (tmp_path / "tokenizer/vocab.json").write_text("this is vocab.json")
        message = failure(hub, tmp_path)
    assert message.startswith(f"{hub.url}/xdecoder/SEEM/resolve/{COMMIT}/{FILE} cannot be reached (")
    by_hand = [f"{file.file} ({file.size} bytes, sha256 {file.sha256})" for file in TINY_TOKENIZER[1:]]
    assert message.endswith(
        f"download on another computer {FILE} (300000 bytes, sha256 {TINY.sha256}) of "
        f"{SEEM} into {tmp_path}, and {', '.join(by_hand)} of {PAGE} into "
        f"{tmp_path}/tokenizer, run this again to check them, then conformalsam convert-seem {tmp_path}/{FILE} OUT"
    )


def test_files_put_in_place_by_hand_need_no_hub(hub, tmp_path, monkeypatch):
    fetch(hub, tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setitem(CHECKPOINTS, NAME, TINY)
    monkeypatch.setattr("pipeline.annotators.download.TOKENIZER_FILES", TINY_TOKENIZER)
    result = CliRunner().invoke(main, ["download", NAME, "--to", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"next: conformalsam convert-seem {tmp_path}/{FILE} OUT\n"


def test_offline_mode_is_honoured_with_exit_code_1_and_one_line(tmp_path):
    part = tmp_path / "seem_focalt_v1.pt.part"
    part.touch()
    os.truncate(part, CHECKPOINTS["seem-focalt-v1"].size)  # sparse: the test's disk need not have 0.66 GB free
    command = [sys.executable, "-m", "pipeline", "download", "seem-focalt-v1", "--to", str(tmp_path)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert "is not requested, because HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set; unset it and run this" in line
    assert f"conformalsam convert-seem {tmp_path}/seem_focalt_v1.pt OUT" in line
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "EntryNotFound", f"404 Not Found; find where {SEEM} has moved it"),
        (401, "RepoNotFound", f"401 Unauthorized; .* (300000 bytes, sha256 {TINY.sha256})"),
        (403, "GatedRepo", "403 Forbidden; accept the conditions on .*, log in with hf auth login, and run this again"),
        (503, "", "503 Service Unavailable; this is an error of the hub: run this again later"),
    ],
)
def test_a_refusal_ends_with_what_to_do(hub, tmp_path, status, code, message):
    hub.refusal = (status, {"X-Error-Code": code})
    error = failure(hub, tmp_path)
    assert f"{hub.url}/xdecoder/SEEM/resolve/{COMMIT}/{FILE} answers {status}" in error
    for text in message.split(".*"):
        assert text in error


def test_a_missing_tokenizer_file_is_a_refusal_too(hub, tmp_path):
    hub.files.pop(f"/{TOKENIZER}/resolve/{REVISION}/merges.txt")
    message = f"merges.txt answers 404 Not Found; find where {PAGE} has moved it"
    assert message in failure(hub, tmp_path)


def test_a_server_that_is_not_a_hub_is_refused(hub, tmp_path):
    hub.commit = {}
    assert "answers without the headers of a Hugging Face hub" in failure(hub, tmp_path)


def test_a_disk_that_is_too_small_is_an_error_before_any_request(hub, tmp_path):
    huge = TINY._replace(size=10**18)
    message = failure(hub, tmp_path / "new", huge)
    assert message.startswith(f"{tmp_path}/new/{FILE} needs 1000000000.00 GB more, but its disk has only ")
    assert message.endswith("free; free disk space, or name a folder on a larger disk with --to")
    assert hub.requests == []


def test_a_folder_that_cannot_be_made_is_one_line(hub, tmp_path):
    (tmp_path / "file").touch()
    found = failure(hub, tmp_path / "file/folder")
    assert found.startswith(f"{tmp_path}/file/folder cannot be written (Not a directory); ")


def test_without_a_terminal_a_long_transfer_logs_lines(hub, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    hub.stored = WEIGHTS * 40
    hub.offered = published(hub.stored)
    fetch(hub, tmp_path, hub.offered)
    lines = [line for line in caplog.messages if line.startswith(f"downloading {FILE}: ")]
    assert lines[0] == f"downloading {FILE}: 12 MB"
    assert lines[-1].startswith(f"downloading {FILE}: 12/12 MB, ")


def test_every_published_file_is_pinned_by_commit_size_and_sha256():
    files = [*CHECKPOINTS.values(), *TOKENIZER_FILES]
    assert all(re.fullmatch("[0-9a-f]{40}", file.revision) for file in files)
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) and file.size for file in files)


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    result = CliRunner().invoke(main, ["download", "seem-focal-v1"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: no checkpoint is called seem-focal-v1; did you mean seem-focal")
    assert all(name in result.stderr for name in CHECKPOINTS)


def test_the_help_names_every_checkpoint_with_its_size():
    text = CliRunner().invoke(main, ["download", "--help"]).output
    for name, checkpoint in CHECKPOINTS.items():
        assert f"{name}  " in text
        assert f"{name:<15}   {checkpoint.size / 1e9:.2f} GB" in text
