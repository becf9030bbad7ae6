"""A server with a tiny model for tests, and its client."""

import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from starlette.testclient import TestClient

from attncli.serve.address import Names
from attncli.serve.application import application
from attncli.serve.guard import Access
from attncli.serve.limits import Limits
from attncli.serve.server import Server, open_socket
from attncli.serve.service import Service
from tests.support.checkpoints import load

HERE = "http://127.0.0.1:8000"
PAGE = (
    '<!doctype html><meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; connect-src 'self'\"><p>a page</p>"
)
LONG = 60  # seconds, for a test that fails
LIMITS = Limits(rate=1e6, burst=10**6)


@dataclass
class Served:
    """A service, and a client of it that names the server as a browser does."""

    service: Service
    client: TestClient

    def post(self, path, body, **more):
        return self.client.post(path, json=body, **more)


@contextmanager
def served(folder: Path, name="m", token=None, host="127.0.0.1", **limits):
    """Serves the model ./checkpoints/NAME of a folder."""
    service = Service.of(PAGE, load(folder / "checkpoints" / name), replace(LIMITS, **limits))
    guard = application(service, Access(Names.of(host), token))
    try:
        with TestClient(guard, base_url=HERE) as client:
            yield Served(service, client)
    finally:
        service.thread.end()


@contextmanager
def running(folder, page=PAGE, token=None, **limits):
    """Runs a server in a thread; yields its port."""
    service = Service.of(page, load(folder / "checkpoints/m"), replace(LIMITS, **limits))
    server = Server(application(service, Access(Names.of("127.0.0.1"), token)), service)
    with open_socket("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join(LONG)
    assert not thread.is_alive()


class Gate:
    """A job that runs until it is let go; `begun` is set when it runs."""

    def __init__(self):
        self.begun, self.opened = threading.Event(), threading.Event()

    def __call__(self):
        self.begun.set()
        assert self.opened.wait(LONG)
        return "through the gate"
