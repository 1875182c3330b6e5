"""A server of the requests of S3 that our object stores make, without signatures, for tests: one bucket in memory."""

import re
import threading
from collections import Counter
from collections.abc import Callable
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

BUCKET = "bucket"
PAGE = 50  # objects that a listing has at a time
TIME = "2026-01-01T00:00:00.000Z"


class Objects(BaseHTTPRequestHandler):
    """Reads, writes, lists and removes objects. A listing has pages, and ranges are served as S3 serves them.

    requests:     number of requests by their method; a listing is LIST
    before_write: called before an object gets its content, which it does not get after an error
    """

    objects: ClassVar[dict[str, bytes]] = {}
    requests: ClassVar[Counter[str]] = Counter()
    before_write: ClassVar[list[Callable[[], None]]] = []
    protocol_version = "HTTP/1.1"

    def _handle(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        self.requests["LIST" if "list-type" in query else self.command] += 1
        if bucket != BUCKET:
            self._answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        elif self.command == "PUT":
            for call in self.before_write:
                call()
            self.objects[key] = body
            self._answer(200, b"", ETag=_tag(body))
        elif self.command == "POST":
            names = re.findall(r"<Key>.*?</Key>", body.decode())
            for name in names:
                self.objects.pop(ElementTree.fromstring(name).text, None)
            deleted = "".join(f"<Deleted>{name}</Deleted>" for name in names)
            self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())
        elif self.command == "DELETE":
            self.objects.pop(key, None)
            self._answer(204, b"")
        elif "list-type" in query:
            self._list(query["prefix"], query.get("continuation-token", ""))
        elif key in self.objects:
            self._read(self.objects[key])
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def _read(self, content):
        facts = {"ETag": _tag(content), "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if span is None:
            self._answer(200, content, **facts)
            return
        first, last = int(span[1]), min(int(span[2]), len(content) - 1)
        facts["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._answer(206, content[first : last + 1], **facts)

    def _list(self, prefix, after):
        names = [name for name in sorted(self.objects.copy()) if name.startswith(prefix) and name > after]
        page = [(name, self.objects.get(name, b"")) for name in names[:PAGE]]
        more = f"<NextContinuationToken>{escape(page[-1][0])}</NextContinuationToken>" if len(names) > PAGE else ""
        rows = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>{TIME}</LastModified><ETag>{escape(_tag(content))}</ETag>"
            f"<Size>{len(content)}</Size></Contents>"
            for name, content in page
        )
        is_truncated = str(bool(more)).lower()
        text = f"<ListBucketResult>{rows}{more}<IsTruncated>{is_truncated}</IsTruncated></ListBucketResult>"
        self._answer(200, text.encode())

    def _answer(self, status, content, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = _handle

    def log_message(self, *_):
        pass


def _tag(content):
    return f'"{md5(content).hexdigest()}"'


def serve(handler):
    """A server on a free port of this machine, which runs until its `shutdown`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
