"""native.c becomes a library once, and where it cannot, text is generated all the same."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attncli.cli.loading import load_to_generate
from attncli.config import SampleConfig
from attncli.generation.engine import generate
from attncli.generation.events import Text
from attncli.model import native, native_library
from attncli.model.backend import TorchBackend
from attncli.model.native_library import _Compilation, library
from tests.test_cli import ask, at_home, home  # noqa: F401

CC = native_library._compiler()
needs_compiler = pytest.mark.skipif(CC is None, reason="there is no C compiler")
QUICK = ("-O0",)  # the library's speed is not looked at


@pytest.fixture(autouse=True)
def _a_cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNCLI_CACHE", str(tmp_path / "own"))
    monkeypatch.setattr(native_library, "_FLAGS", (*QUICK, "-shared", "-fPIC"))


def compiler(folder, script):
    """A program that compiles, or not, as a shell script says."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return [str(path)]


def counting(folder):
    """A compiler that works, and writes down each time that it is called."""
    return compiler(folder, f'echo >> {folder}/calls\nexec {CC[0]} "$@"')


def calls(folder):
    return len((folder / "calls").read_text()) if (folder / "calls").exists() else 0


def loads(path):
    return ctypes.CDLL(str(path)).reads_float16() in (0, 1)


@needs_compiler
def test_a_library_is_made_once_and_nothing_else_is_left(tmp_path):
    made, folder = counting(tmp_path), tmp_path / "own"
    path = _Compilation(made, folder, "key").result()
    assert list(folder.iterdir()) == [path]
    assert loads(path)
    assert _Compilation(made, folder, "key").result() == path
    assert calls(tmp_path) == 1
    assert _Compilation(made, folder, "other").result() != path
    assert calls(tmp_path) == 2


@needs_compiler
@pytest.mark.parametrize("keep", [0, 100, 4096, 0.5, 0.99])
def test_a_library_that_was_cut_short_is_made_again(tmp_path, keep):
    made, folder = counting(tmp_path), tmp_path / "own"
    path = _Compilation(made, folder, "key").result()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    again = _Compilation(made, folder, "key").result()
    assert calls(tmp_path) == 2
    assert again.read_bytes() == whole
    assert list(folder.iterdir()) == [again]
    assert loads(again)


@needs_compiler
def test_two_that_make_it_at_once_both_have_it(tmp_path, monkeypatch):
    made, folder = counting(tmp_path), tmp_path / "own"
    one = _Compilation(made, folder, "key")
    monkeypatch.setattr(os, "getpid", lambda: 1)
    two = _Compilation(made, folder, "key")
    assert calls_come(tmp_path, 2)
    assert loads(two.result())
    assert loads(one.result())
    assert not list(folder.glob("*.tmp"))


def calls_come(folder, count):
    end = time.monotonic() + 30
    while calls(folder) < count and time.monotonic() < end:
        os.sched_yield()
    return calls(folder) == count


@pytest.mark.parametrize(
    "script", ["exit 1", "kill -9 $$", 'while [ "$1" != -o ]; do shift; done; echo part > "$2"; exit 1']
)
def test_a_compiler_that_fails_leaves_nothing(tmp_path, script):
    assert _Compilation(compiler(tmp_path, script), tmp_path / "own", "key").result() is None
    assert not list((tmp_path / "own").iterdir())


def test_where_nothing_can_be_written_no_compiler_is_called(tmp_path):
    made = compiler(tmp_path, f"echo >> {tmp_path}/calls")
    (tmp_path / "own").write_text("a file where a folder should be")
    assert _Compilation(made, tmp_path / "own", "key").result() is None
    assert _Compilation(made, Path("/proc/self"), "key").result() is None
    assert calls(tmp_path) == 0
    assert _Compilation(["/nowhere/cc"], tmp_path / "there", "key").result() is None
    assert not list((tmp_path / "there").iterdir())


def test_a_compiler_that_takes_too_long_is_stopped_with_what_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(native_library, "_SECONDS", 0.05)
    begun = _Compilation(compiler(tmp_path, "sleep 1000 & wait"), tmp_path / "own", "key")
    group = begun._process.pid
    assert begun.result() is None
    assert not list((tmp_path / "own").iterdir())
    with pytest.raises(ProcessLookupError):
        while True:  # until both are gone
            os.killpg(group, 0)


def test_a_process_that_ends_early_leaves_no_compiler_behind(tmp_path):
    (cc,) = compiler(tmp_path, f"echo $$ > {tmp_path}/started; sleep 1000")
    code = "from attncli.model.native_library import begin; begin(); import time, pathlib\n"
    code += f"while not pathlib.Path('{tmp_path}/started').read_text().strip(): pass"
    (tmp_path / "started").touch()
    assert python(code, CC=cc).returncode == 0
    assert not list((tmp_path / "own/native").iterdir())
    with pytest.raises(ProcessLookupError):
        while True:
            os.kill(int((tmp_path / "started").read_text()), 0)


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def anew():
    """What was found out in this process is found out again, and once more after the test."""
    found_out = (native_library.begin, native_library.library, native._functions)
    for function in found_out:
        function.cache_clear()
    yield
    for function in found_out:
        function.cache_clear()


@pytest.mark.parametrize(
    ("name", "value"), [("CC", "nonexistent"), ("ATTNCLI_NATIVE", "0"), ("CC", "false"), (None, None)]
)
def test_with_and_without_a_library_the_text_is_the_same(at_home, monkeypatch, capsys, anew, name, value):  # noqa: F811
    if name:
        monkeypatch.setenv(name, value)
    assert native.available() == (name is None and CC is not None)
    loaded, backend = load_to_generate(None, "cpu", "auto", keep=True)
    assert isinstance(backend, native.NativeBackend if native.available() else TorchBackend)
    assert loaded.model.embedding.weight.numel() > 0
    released = load_to_generate(None, "cpu", "auto")[0].model.embedding.weight.numel() == 0
    assert released == native.available()
    code, out, err = ask(capsys, "generate", "The cat", "-n", "12", "-t", "0")
    assert (code, err) == (0, "")
    prompt = [loaded.tokenizer.encode("The cat")]
    events = generate(
        TorchBackend(loaded.model), loaded.tokenizer, prompt, SampleConfig(temperature=0, max_new_tokens=12)
    )
    assert out == "The cat" + "".join(event.text for event in events if isinstance(event, Text)) + "\n"


@needs_compiler
def test_a_file_that_is_no_library_is_done_without(monkeypatch, anew, tmp_path):
    (cc,) = compiler(tmp_path, 'while [ "$1" != -o ]; do shift; done; echo text > "$2"')
    monkeypatch.setenv("CC", cc)
    assert library().read_text() == "text\n"
    assert not native.available()


def test_integers_without_a_library_are_refused(at_home, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(native, "available", lambda: False)
    code, _, err = ask(capsys, "generate", "The cat", "--dtype", "int8")
    assert code == 2
    assert "--dtype int8 is for a CPU with a C compiler" in err


@needs_compiler
def test_what_the_library_depends_on_is_in_its_name(monkeypatch):
    one = native_library._key(CC)
    monkeypatch.setattr(native_library, "_FLAGS", ("-O1",))
    assert native_library._key(CC) != one
    assert native_library._key(["another"]) != native_library._key(CC)


def test_a_library_that_another_could_have_put_there_is_not_loaded(tmp_path, monkeypatch, anew):
    planted = tmp_path / "native" / "planted"
    planted.parent.mkdir(mode=0o700)
    planted.write_text("a library of somebody else's")
    monkeypatch.setenv("ATTNCLI_CACHE", str(tmp_path))
    key = native_library._key(native_library._compiler() or ["cc"])
    named = planted.rename(planted.with_name(f"{key}.{native_library._digest(planted)}.so"))
    for place, mode in ((named, 0o722), (named.parent, 0o777)):
        before = place.stat().st_mode
        assert native_library._whole(named.parent, key) == named
        place.chmod(mode)
        copied = named.read_bytes()
        assert native_library._whole(named.parent, key) is None
        if place.exists():  # a file that is not trusted is removed
            place.chmod(before)
        named.write_bytes(copied)
        named.chmod(0o700)


def test_an_open_quote_in_cc_means_no_compiler(monkeypatch, anew):
    monkeypatch.setenv("CC", "gcc '")
    assert native_library._compiler() is None
