"""An object store on this machine."""

import threading
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer

import pytest
from faulty_server import Faults


@pytest.fixture
def s3(monkeypatch):
    """A bucket on a local server for S3 behind a proxy with faults; the URL of its folder maps."""
    server_module = pytest.importorskip("moto.server", reason="pip install 'moto[s3,server]'")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    Faults.server_address_of = server.get_host_and_port()
    Faults.done.clear()
    Faults.corrupted.clear()
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Faults)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    environment = {
        "ENDPOINT_URL": f"http://127.0.0.1:{proxy.server_port}",
        "ALLOW_HTTP": "true",
        "REGION": "us-east-1",
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
    }
    for name, value in environment.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    made = HTTPConnection(*Faults.server_address_of)
    made.request("PUT", "/bucket", headers={"Host": "127.0.0.1"})
    assert made.getresponse().status == 200
    yield "s3://bucket/maps"
    proxy.shutdown()
    server.stop()
