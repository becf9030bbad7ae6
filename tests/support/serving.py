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
from attncli.serve.service import Service
from tests.support.checkpoints import load

HERE = "http://127.0.0.1:8000"
PAGE = (
    '<!doctype html><meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; connect-src 'self'\"><p>a page</p>"
)
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


class Gate:
    """A job that runs until it is let go; `begun` is set when it runs."""

    def __init__(self):
        self.begun, self.opened = threading.Event(), threading.Event()

    def __call__(self):
        self.begun.set()
        assert self.opened.wait(60)
        return "through the gate"
