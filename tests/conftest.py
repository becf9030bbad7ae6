"""Fixtures of several rooms: families, folders with a model, an empty cache for each test, a browser, no network."""

from __future__ import annotations

import fcntl
import functools
import gc
import os
import re
import shutil
import socket
import tempfile
import threading
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ATTNCLI_MODELS"] = os.devnull  # never the user's own models
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each process that a test starts compiles the whole package
os.environ["TOKENIZERS_PARALLELISM"] = "true"
os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # as the command line does
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from a second, and other tests run beside

import pytest
import typer.main
from hypothesis import settings

from attncli.checkpoint import catalog
from attncli.cli.main import run
from attncli.cli.process import delay_full_collections
from attncli.model import native, native_library
from attncli.text.tokenizer_training import train_tokenizer
from attncli.training import recipe
from tests.support.browser import Browser
from tests.support.checkpoints import write_random_model
from tests.support.commands import QUICK, RECIPE
from tests.support.models import FAMILIES
from tests.support.texts import story

settings.register_profile("attncli", deadline=None, max_examples=60)  # a slow machine is no failure
settings.load_profile("attncli")


def pytest_configure(config):
    delay_full_collections()
    if not hasattr(config, "workerinput"):
        _begin_compiling(config)


def _begin_compiling(config):
    """Compiles the libraries once for all workers, while they collect the tests, into the cache of this session.

    The workers inherit the environment. They wait for the compiler by means of a lock on the file `compiling`.
    """
    cache = Path(tempfile.mkdtemp(prefix="attncli-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(cache, ignore_errors=True))
    os.environ["ATTNCLI_CACHE"] = str(cache)
    held = (cache / "compiling").open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    for name in native_library.SOURCES:
        native_library.begin(name)

    def finish():
        for name in native_library.SOURCES:
            native_library.library(name)
        held.close()

    threading.Thread(target=finish, daemon=True).start()


_SLOW_TO_START = ("transformers", "tests.support.encoder", "tests.support.forking", "tests.support.browser")


@functools.cache
def _rank(file):
    """Returns the place in `_SLOW_TO_START` of the first library or helper that a file of tests imports."""
    text = file.read_text(encoding="utf-8")
    imports = (re.search(rf"^ *(from|import) .*{re.escape(name)}", text, re.MULTILINE) for name in _SLOW_TO_START)
    return next((at for at, found in enumerate(imports) if found), len(_SLOW_TO_START))


def pytest_collection_modifyitems(items):
    """Puts the tests that need a library or a helper that takes seconds to start side by side, before all others.

    pytest-xdist gives each worker consecutive tests first, so most often one worker alone starts it.
    """
    items.sort(key=lambda item: _rank(item.path))


def pytest_collection_finish():
    gc.freeze()  # a full collection then skips what was imported and collected: a million objects that no test frees


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="fifty kills of a real training process instead of three")


@pytest.fixture(params=FAMILIES)
def family(request) -> dict:
    """Returns the config's switches for each family."""
    return FAMILIES[request.param]


@pytest.fixture(scope="session")
def compiled():
    """Returns the folder of the compiled network, which all tests of all workers share."""
    cache = Path(os.environ["ATTNCLI_CACHE"])
    with (cache / "compiling").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    native_library._begun.cache_clear()
    native_library._found.cache_clear()
    native_library._in_wheel.cache_clear()
    return cache / "native"


@pytest.fixture
def in_c():
    """Skips the test if there is no C compiler."""
    if not native.available():
        pytest.skip("there is no C compiler")


@pytest.fixture(scope="session", autouse=True)
def _no_models():
    """Lets the tests find neither a default model nor one that ships, and makes screens 80 columns wide."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "_SHIPPED_FOLDERS", ())
        patch.delenv("ATTNCLI_MODEL", raising=False)
        patch.setenv("COLUMNS", "80")
        yield


@pytest.fixture(scope="session")
def _cache(tmp_path_factory, compiled):
    """Returns a cache that contains the compiled network."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "native").mkdir(mode=0o700)
    for library in compiled.glob("*.so"):
        shutil.copy(library, cache / "native")
    return cache


@pytest.fixture(autouse=True)
def _own_cache(_cache):
    """Gives each test a cache without what earlier tests have stored in it, except for the compiled network.

    Making and removing a folder for each of thousands of tests would take longer than most of the tests.
    """
    for left in _cache.iterdir():
        if left.is_file():
            left.unlink()
        elif left.name != "native":
            shutil.rmtree(left)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNCLI_CACHE", str(_cache))
        yield


@pytest.fixture(scope="session", autouse=True)
def _quick_commands():
    """Builds Typer's commands once per process, and makes few evaluations and short samples in a training run.

    Otherwise, these would take most of the time of a command in the tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        for name, value in RECIPE.items():
            patch.setattr(recipe, name, value)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_network():
    """Makes a test fail if it connects to another machine. A browser and a server are on this machine."""
    connect = socket.socket.connect

    def refuse(self, address):
        if self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"):
            return connect(self, address)
        raise AssertionError(f"a connection to {address} was tried")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="session")
def _browser():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def browser(_browser):
    """Returns the browser of this worker, with a window of 1280 x 900 pixels on a light system."""
    _browser.resize()
    return _browser


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """Returns a folder with a random model, ./checkpoints/m."""
    folder = tmp_path_factory.mktemp("model")
    write_random_model(folder / "checkpoints/m", train_tokenizer([story(400)], "bpe", 400))
    return folder


@pytest.fixture
def in_model_folder(model_folder, tmp_path, monkeypatch):
    """Makes an empty folder with the model of `model_folder` the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").symlink_to(model_folder / "checkpoints")
    return tmp_path


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """Returns a folder with a text, and a model that the command line trained on the text."""
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
    """Makes the folder `home` the working directory."""
    monkeypatch.chdir(home)
    return home
