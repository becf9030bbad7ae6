"""Fixtures of several rooms: the families, folders with a model, a cache of our own for each test, and no network."""

from __future__ import annotations

import functools
import os
import shutil
import socket
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ATTNCLI_MODELS"] = os.devnull  # never the user's own
os.environ["TOKENIZERS_PARALLELISM"] = "true"
os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # as the command line does
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from a second, and other tests run beside

import pytest
import typer.main
from hypothesis import settings

from attncli.checkpoint import catalog
from attncli.cli.main import run
from attncli.model import native_library
from attncli.text.tokenizer_training import train_tokenizer
from attncli.training import recipe
from tests.support.checkpoints import write_random_model
from tests.support.commands import QUICK
from tests.support.models import FAMILIES
from tests.support.texts import story

settings.register_profile("attncli", deadline=None)  # what a busy machine does slowly is no failure
settings.load_profile("attncli")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="fifty kills of a real training process instead of three")


@pytest.fixture(params=FAMILIES)
def family(request) -> dict:
    """The switches of every family that the network expresses."""
    return FAMILIES[request.param]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Where the network in C is kept: all tests use one, those of other workers too."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "native"
    folder.mkdir(mode=0o700, exist_ok=True)
    _forget_library()  # what was found while the tests were collected
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNCLI_CACHE", str(folder.parent))
        native_library.library()
    _forget_library()
    return folder


def _forget_library():
    native_library.begin.cache_clear()
    native_library.library.cache_clear()


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch, compiled):
    """Each test has its own cache, but for what a compiler made, and no default model, nor one that ships."""
    monkeypatch.setattr(catalog, "_SHIPPED_PLACES", ())
    cache = tmp_path.with_name(f"{tmp_path.name}.cache")
    cache.mkdir()
    (cache / "native").mkdir(mode=0o700)
    for library in compiled.glob("*.so"):
        shutil.copy(library, cache / "native")
    monkeypatch.setenv("ATTNCLI_CACHE", str(cache))
    monkeypatch.delenv("ATTNCLI_MODEL", raising=False)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="session", autouse=True)
def _quick_commands():
    """Typer's commands are built once in a process, not for every command line; a run writes short samples.

    Both take longer than all else in most commands of the tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        patch.setattr(recipe, "SAMPLE_TOKENS", 12)
        patch.setattr(recipe, "FINAL_SAMPLE_TOKENS", 60)
        yield


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """A connection that leaves this machine fails the test."""

    def refuse(self, address):
        raise AssertionError(f"a connection to {address} was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A folder with a random model, ./checkpoints/m."""
    folder = tmp_path_factory.mktemp("model")
    write_random_model(folder / "checkpoints/m", train_tokenizer([story(400)], "bpe", 400))
    return folder


@pytest.fixture
def in_model_folder(model_folder, tmp_path, monkeypatch):
    """The working directory: an empty folder with that model in its ./checkpoints."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").symlink_to(model_folder / "checkpoints")
    return tmp_path


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with a text and a model trained on it by the command line."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "story.txt").write_text(story(3000))
    before = Path.cwd()
    os.chdir(folder)
    cache = os.environ.get("ATTNCLI_CACHE")
    os.environ["ATTNCLI_CACHE"] = str(folder / "cache")
    try:
        assert run(["train", "story.txt", *QUICK]) == 0
    finally:
        os.chdir(before)
        os.environ.pop("ATTNCLI_CACHE") if cache is None else os.environ.update(ATTNCLI_CACHE=cache)
    return folder


@pytest.fixture
def at_home(home, monkeypatch):
    """That folder as the working directory."""
    monkeypatch.chdir(home)
    return home
