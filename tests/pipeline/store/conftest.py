"""An object store on this machine."""

from http.client import HTTPConnection

import pytest
from faulty_server import Faults
from object_server import Objects, serve


def own_server():
    Objects.objects.clear()
    Objects.requests.clear()
    server = serve(Objects)
    return server.server_address, server.shutdown


def moto_server():
    module = pytest.importorskip("moto.server", reason="pip install 'moto[s3,server]'")
    server = module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    return server.get_host_and_port(), server.stop


def use_server(port, monkeypatch):
    environment = {
        "ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "ALLOW_HTTP": "true",
        "REGION": "us-east-1",
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
    }
    for name, value in environment.items():
        monkeypatch.setenv(f"AWS_{name}", value)


@pytest.fixture
def own_s3(monkeypatch):
    """A bucket on our own server, without faults; the URL of its folder maps."""
    (_, port), stop = own_server()
    use_server(port, monkeypatch)
    yield "s3://bucket/maps"
    Objects.before_write.clear()
    stop()


@pytest.fixture(params=[own_server, moto_server])
def s3(request, monkeypatch):
    """A bucket on a local server for S3 behind a proxy with faults; the URL of its folder maps."""
    Faults.server_address_of, stop = request.param()
    Faults.done.clear()
    Faults.failed.clear()
    Faults.corrupted.clear()
    proxy = serve(Faults)
    use_server(proxy.server_port, monkeypatch)
    made = HTTPConnection(*Faults.server_address_of)
    made.request("PUT", "/bucket", headers={"Host": "127.0.0.1"})
    assert made.getresponse().status == 200
    yield "s3://bucket/maps"
    proxy.shutdown()
    stop()
