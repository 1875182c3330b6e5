"""A proxy in front of a server for tests, which drops, delays, refuses or corrupts some of its answers."""

import random
import time
from collections import Counter
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from typing import ClassVar


class Faults(BaseHTTPRequestHandler):
    """Passes requests on to a server, but drops, delays, refuses or corrupts some of them.

    failed:    how often in turn a request was dropped or refused; at most four times, because after six it is given up
    corrupted: how often the content of a path was; at most twice, because what is damaged three times is given up
    """

    server_address_of = ("127.0.0.1", 0)
    rng = random.Random(0)
    done: ClassVar[Counter[str]] = Counter()
    failed: ClassVar[Counter[str]] = Counter()
    corrupted: ClassVar[Counter[str]] = Counter()
    protocol_version = "HTTP/1.1"

    def _pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.rng.choices(["none", "drop", "delay", "refuse", "corrupt"], [6, 1, 1, 1, 1])[0]
        request = f"{self.command} {self.path}"
        fault = "none" if self.failed[request] == 4 else fault
        self.failed[request] = self.failed[request] + 1 if fault in ("drop", "refuse") else 0
        self.done[fault] += 1
        if fault == "drop":
            self.close_connection = True
            return
        if fault == "delay":
            time.sleep(0.1)
        if fault == "refuse":
            self._answer(503, {}, b"slow down")
            return
        connection = HTTPConnection(*self.server_address_of)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        is_object = "list-type" not in self.path and not self.path.endswith("maps.json") and answer.status in (200, 206)
        if fault == "corrupt" and self.command == "GET" and is_object and content and self.corrupted[self.path] < 2:
            self.corrupted[self.path] += 1
            at = self.rng.randrange(len(content))
            content = content[:at] + bytes([content[at] ^ 8]) + content[at + 1 :]
        self._answer(answer.status, dict(answer.getheaders()), content)

    def _answer(self, status, headers, content):
        self.send_response(status)
        length = headers.pop("Content-Length", None) if self.command == "HEAD" else None
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

    def log_message(self, *_):
        pass
