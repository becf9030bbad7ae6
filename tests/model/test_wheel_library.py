"""The libraries of a wheel: which one a processor loads, how the build hook makes them, and what needs no compiler."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from attncli.model import native, native_library, wheel_library
from attncli.model.wheel_library import LEVELS, best_library
from tests.support.hatch import ROOT, hatch_build

AVX2 = "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Returns a folder with an empty library for each level of every machine."""
    monkeypatch.setattr(wheel_library, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    for levels in LEVELS.values():
        for level in levels:
            (tmp_path / level.file("native")).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("machine", "flags", "chosen"),
    [
        ("x86_64", f"fpu {AVX2} avx512f avx512bw avx512cd avx512dq avx512vl", "x86-64-v4"),
        ("x86_64", f"fpu {AVX2} avx512f", "x86-64-v3"),
        ("x86_64", "fpu sse2 avx", "x86-64"),
        ("x86_64", "", "x86-64"),
        ("aarch64", "fp asimd asimdhp fphp", "armv8.2-a+fp16"),
        ("aarch64", "fp asimd", "armv8-a"),
        ("riscv64", "", None),
    ],
)
def test_the_highest_level_that_the_processor_has_is_chosen(monkeypatch, folder, machine, flags, chosen):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(wheel_library, "_processor_flags", lambda: frozenset(flags.split()))
    assert best_library() == (None if chosen is None else folder / f"native-{chosen}.so")


def test_a_level_whose_library_is_missing_is_passed_over(monkeypatch, folder):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(wheel_library, "_processor_flags", lambda: frozenset(AVX2.split()))
    (folder / "native-x86-64-v3.so").unlink()
    assert best_library() == folder / "native-x86-64.so"


def test_there_is_none_in_a_checkout_and_on_other_systems(monkeypatch, folder):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert best_library() is None
    monkeypatch.undo()
    assert best_library() is None


LOADER = Path("/lib64/ld-linux-x86-64.so.2")  # of glibc, which also chooses libraries by these levels


@pytest.mark.skipif(not LOADER.exists(), reason="there is no glibc of x86-64")
def test_this_processor_has_the_levels_that_the_loader_of_glibc_finds():
    told = subprocess.run([LOADER, "--help"], capture_output=True, text=True, check=True).stdout
    if "x86-64-v3" not in told:
        pytest.skip("this glibc does not tell the levels")
    for level in LEVELS["x86_64"][:-1]:
        assert (level.needs <= wheel_library._processor_flags()) == (f"{level.march} (supported" in told)


def test_the_last_level_of_each_machine_needs_nothing():
    assert all(not levels[-1].needs for levels in LEVELS.values())


@pytest.fixture
def in_wheel(monkeypatch, compiled, in_c, tmp_path):
    """Puts the compiled library of this machine into the place of a wheel's, and returns its path."""
    (stored,) = compiled.glob(f"{native_library._key(native_library._compiler())}.*.so")
    library = tmp_path / LEVELS.get(platform.machine(), LEVELS["x86_64"])[-1].file("native")
    library.write_bytes(stored.read_bytes())
    monkeypatch.setattr(wheel_library, "FOLDER", tmp_path)
    monkeypatch.setattr(wheel_library, "_processor_flags", frozenset)
    monkeypatch.setenv("CC", "nonexistent")
    caches = (native_library._begun, native_library._found, native_library._in_wheel, native._functions)
    for one in caches:
        one.cache_clear()
    yield library
    for one in caches:
        one.cache_clear()


def test_a_wheel_needs_no_compiler(in_wheel):
    assert native_library.begin() is None
    assert native_library.library().path == in_wheel
    assert native.available()
    assert native_library.problem() == ""


def test_a_library_that_cannot_be_loaded_is_reported(in_wheel):
    in_wheel.write_text("no library")
    assert not native.available()
    assert native_library.problem().startswith("the compiled library cannot be loaded: ")


def test_attncli_native_0_also_switches_off_the_library_of_a_wheel(in_wheel, monkeypatch):
    monkeypatch.setenv("ATTNCLI_NATIVE", "0")
    assert not native.available()
    assert native_library.problem() == ""


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Sets a compiler that writes its arguments and the version of glibc that it needs into the library."""
    path = tmp_path / "cc"
    path.write_text(
        '#!/bin/sh\nfor last; do test "$before" = -o && out="$last"; before="$last"; done\n'
        'echo "$@" GLIBC_2.4 GLIBC_2.31 > "$out"\n'
    )
    path.chmod(0o700)
    monkeypatch.setenv("CC", str(path))
    monkeypatch.setenv("ATTNCLI_COMPILE", "1")
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.mark.parametrize("machine", LEVELS)
def test_the_hook_adds_a_library_of_each_level_and_names_the_platform(monkeypatch, compiler, machine):
    monkeypatch.setenv("ATTNCLI_MACHINE", machine)
    hook = hatch_build().LibraryHook(ROOT)
    built = {"force_include": {}}
    hook.initialize("standard", built)
    assert sorted(built["force_include"].values()) == sorted(
        f"attncli/model/compiled/{level.file(library)}"
        for level in LEVELS[machine]
        for library in ("native", "training")
    )
    assert (built["tag"], built["pure_python"]) == (f"py3-none-manylinux_2_31_{machine}", False)
    for path, name in built["force_include"].items():
        commanded = Path(path).read_text()
        library, _, march = name.removeprefix("attncli/model/compiled/").removesuffix(".so").partition("-")
        assert f"-march={march} " in commanded
        assert all(flag in commanded for flag in (*wheel_library.FLAGS, str(ROOT / f"attncli/model/{library}.c")))
    hook.finalize("standard", built, "")
    assert not any(Path(path).exists() for path in built["force_include"])


@pytest.mark.parametrize(("version", "compile"), [("editable", "1"), ("standard", "0"), ("standard", None)])
def test_an_editable_installation_or_one_without_the_switch_has_no_libraries(monkeypatch, compiler, version, compile):
    monkeypatch.delenv("ATTNCLI_COMPILE") if compile is None else monkeypatch.setenv("ATTNCLI_COMPILE", compile)
    hook, built = hatch_build().LibraryHook(ROOT), {"force_include": {}}
    hook.initialize(version, built)
    hook.finalize(version, built, "")
    assert built == {"force_include": {}}


def test_an_unknown_machine_is_refused(monkeypatch, compiler):
    monkeypatch.setenv("ATTNCLI_MACHINE", "riscv64")
    with pytest.raises(SystemExit, match="for Linux on x86_64 or aarch64"):
        hatch_build().LibraryHook(ROOT).initialize("standard", {"force_include": {}})
