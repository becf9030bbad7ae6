"""Every script of benchmarks/ does one small round; the commands that it starts run in this process."""

import hashlib
import importlib
import io
import json
import lzma
import platform
import re
import subprocess
import sys
import zipfile
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.cli.main import run
from attncli.evaluation.alignment import format_links, parse_links
from attncli.model import kernels, native, wheel_library
from attncli.text.tokenizer_training import train_pair_tokenizer
from tests.support.alignments import GOLD_LINES
from tests.support.browser import needs_chromium
from tests.support.models import ENCODER_DECODERS, tiny_model
from tests.support.pairs import made_pairs, write_pairs
from tests.support.places import ROOT
from tests.support.texts import story

FOLDER = ROOT / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.fixture
def script(monkeypatch):
    """Imports a script by its name, as a script in its folder would."""
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module
    for name in SCRIPTS:
        sys.modules.pop(name, None)


@pytest.fixture
def text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(story(1500))
    return "text.txt"


def printed(command):
    """Returns the output of a command that runs in this process."""
    with redirect_stdout(io.StringIO()) as out:
        if command[1:3] == ["-m", "attncli"]:
            assert run(command[3:]) == 0
    return out.getvalue()


def test_every_script_shows_its_help_and_shadows_no_package():
    """A process searches for modules in the folder of the scripts first, as Python does when it runs a script."""
    code = """
import contextlib, io, runpy, sys
folder, *scripts = sys.argv[1:]
sys.path.insert(0, folder)
for script in scripts:
    sys.argv = [script, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        runpy.run_path(f"{folder}/{script}.py", run_name="__main__")
    assert f"usage: python benchmarks/{script}.py" in out.getvalue(), script
    import torch
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(FOLDER), *SCRIPTS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_script_has_a_test_in_this_file():
    source = Path(__file__).read_text()
    assert [name for name in SCRIPTS if f'script("{name}")' not in source] == []


def test_align(script, tmp_path, monkeypatch, capsys):
    align = script("align")
    rows = [line.split("\t") for line in GOLD_LINES]
    pairs = "".join(f"{source}\t{target}\n" for source, target, _ in rows)
    for name in (align.TRAIN, align.TEST):
        (tmp_path / name).write_bytes(lzma.compress(pairs.encode()))
    flipped = "".join(f"{target}\t{source}\t0-0\n" for source, target, _ in rows)
    (tmp_path / align.EUROPARL).write_text(flipped, encoding="utf-8")
    digests = [hashlib.sha256(line.encode()).hexdigest()[:16] for line in pairs.splitlines()]
    gold = "".join(f"{n}\t{digests[n - 1]}\t{rows[n - 1][2]}\n" for n in (2, 14))
    monkeypatch.setattr(align, "GOLD", tmp_path / "gold.tsv")
    align.GOLD.write_text(f"# header\n{gold}")
    found = align.tatoeba_gold(tmp_path / align.TEST)
    assert [format_links(pair.links.sure, pair.links.possible) for pair in found] == [rows[1][2], rows[13][2]]
    align.main([str(tmp_path)])
    *_, hmm, alone = capsys.readouterr().out.splitlines()
    assert hmm.startswith("| HMM, trained by agreement |")
    assert alone.startswith("| HMM, trained by agreement, the gold pairs alone |")
    align.GOLD.write_text(f"# header\n3{gold[1:]}")
    with pytest.raises(SystemExit, match="line 3 is not the line that was aligned by hand"):
        align.tatoeba_gold(tmp_path / align.TEST)


def test_translate(script, tmp_path):
    """On the same weights, every tool that is installed has the same translations."""
    translate = script("translate")
    tokenizer = train_pair_tokenizer([story(300)], "bpe", 300)
    model = tiny_model(**ENCODER_DECODERS["m2m100"] | {"vocab_size": 300, "context": 128})
    folder, pairs = tmp_path / "translator", tmp_path / "pairs.tsv"
    write_checkpoint(folder, Checkpoint(model.config, model.state_dict(), tokenizer, 40, end_ids=frozenset({2})))
    pairs.write_text("A dog runs.\tx\nThe sun\ty\nTwo cats sleep.\tz\n", encoding="utf-8")
    sources = translate.sources(folder, pairs, 2)
    assert sorted(tokenizer.decode(ids[:-1]) for ids in sources) == ["A dog runs.", "The sun"]
    ours, theirs = (
        translate.tool_named(name, folder, 2, 1, torch.get_num_threads())(sources)
        for name in ("attncli PyTorch", "transformers")
    )
    assert ours == theirs
    assert all(ours)


def test_serve(script, model_folder, capsys):
    script("serve").main(["--model", str(model_folder / "checkpoints/m"), "--rounds", "1", "--tokens", "12"])
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["request", "bytes", "elapsed", "CPU", "time"]
    assert [row.split()[0] for row in rows] == ["page", "cut", "next"]


@needs_chromium
def test_serve_types_in_chromium(script, model_folder, capsys):
    model = str(model_folder / "checkpoints/m")
    script("serve").main(["--model", model, "--rounds", "2", "--tokens", "12", "--type"])
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["key", "wait", "request", "script", "frame"]


def test_serve_texts(script, in_model_folder, capsys):
    """No text differs from that of the same request alone."""
    given = ["--model", "m", "--clients", "1", "3", "--seconds", "0.2", "--tokens", "5"]
    script("serve_texts").main(given)
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["clients", "side", "tokens/s"]
    assert [(row.split()[0], row.split()[-1]) for row in rows] == [("1", "0"), ("3", "0")]


def test_the_gold_alignment_has_50_lines_of_links_and_no_text():
    header, *lines = (FOLDER / "align_gold.tsv").read_text(encoding="utf-8").splitlines()
    assert header.startswith("#")
    numbers, digests, links = zip(*(line.split("\t") for line in lines), strict=True)
    assert len(set(numbers)) == len(set(digests)) == 50
    assert [int(number) for number in numbers] == sorted(map(int, numbers))
    assert all(re.fullmatch("[0-9a-f]{16}", digest) for digest in digests)
    parsed = [parse_links(one) for one in links]
    assert [format_links(one.sure, one.possible) for one in parsed] == list(links)
    assert all(one.sure for one in parsed)


@needs_chromium
def test_page(script, monkeypatch, capsys):
    page = script("page")
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["page.py", "--shape", "1x2", "--tokens", "6", "--hovers", "2", "--rounds", "1"])
    page.main()
    shown, _, _, row = capsys.readouterr().out.splitlines()
    assert shown.startswith("6 tokens of random")
    assert re.fullmatch(r"\| attncli \| \d+ kB \| [\d,]+ ms, [\d,]+ ms \| [\d.]+ ms, \d+ ms \| [\d.]+ ms \| 0 \|", row)


def test_explain(script, tmp_path, monkeypatch, capsys):
    explain = script("explain")
    for size in explain.SHAPES:
        monkeypatch.setitem(explain.SHAPES, size, (1, 32, 4096, 256))
    monkeypatch.setattr(explain, "seconds", lambda *command: (len(printed(list(command))) + 1.0, 1.0))
    explain.main(["--only", "start", "--rounds", "1"])
    assert "attncli explain" in capsys.readouterr().out
    if Path("/proc/self/clear_refs").exists():
        explain.write_model(tmp_path, "large")
        explain.main(["--peak", "explain", "--folder", str(tmp_path), "--tokens", "64"])
        assert "64 tokens" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["int8", "PyTorch"])
def test_generate(script, tmp_path, monkeypatch, capsys, kind):
    if kind == "int8" and not native.available():
        pytest.skip("there is no C compiler")
    generate = script("generate")
    monkeypatch.setattr(generate, "NEW", 8)
    monkeypatch.setattr(generate, "BATCH_NEW", 4)
    generate.write_model(tmp_path / "model", "1x64x300")
    monkeypatch.setattr(sys, "stdin", io.StringIO("batch 1\nbatch 16\nprompt\n"))
    generate.main(["--work", f"attncli {kind}", "--folder", str(tmp_path / "model"), "--threads", "1"])
    told, *speeds = capsys.readouterr().out.splitlines()
    assert len(json.loads(told)["ids"]) == 8
    assert all(float(speed) > 0 for speed in speeds)


def test_wheel_measures_a_library(script, tmp_path, monkeypatch, capsys):
    if not native.available():
        pytest.skip("there is no C compiler")
    wheel = script("wheel")
    monkeypatch.setattr(wheel.wheel_library, "FOLDER", tmp_path)
    monkeypatch.setattr(wheel.generate, "NEW", 8)
    monkeypatch.setattr(wheel.generate, "BATCH_NEW", 4)
    wheel.generate.write_model(tmp_path / "model", "1x64x300")
    monkeypatch.setattr(sys, "stdin", io.StringIO("batch 1\nprompt\n"))
    wheel.main(["--work", wheel.NATIVE, "--models", str(tmp_path / "model"), "--dtypes", "int8", "--threads", "1"])
    told, *speeds = capsys.readouterr().out.splitlines()
    assert len(json.loads(told)["ids"]) == 8
    assert all(float(speed) > 0 for speed in speeds)


@pytest.mark.skipif(platform.machine() not in wheel_library.LEVELS, reason="wheels have no library for this processor")
def test_wheel_compares_the_level_of_this_processor_and_the_named_ones(script, tmp_path, monkeypatch, capsys):
    wheel, commands = script("wheel"), []
    monkeypatch.setattr(wheel.wheel_library, "FOLDER", tmp_path)
    levels = wheel.wheel_library.LEVELS[platform.machine()]
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as file:
        for level in levels:
            file.writestr(f"attncli/model/compiled/{level.file('native')}", "")

    def start(command, **_):
        commands.append(command)
        said = io.StringIO(json.dumps({"measures": ["prompt"]}) + f"\n{len(commands)}0\n{len(commands)}0\n")
        return SimpleNamespace(stdin=io.StringIO(), stdout=said, wait=lambda: 0)

    monkeypatch.setattr(subprocess, "Popen", start)
    options = ("--shapes", "--dtypes", "int8", "--rounds", "2", "--levels", levels[-1].march)
    wheel.main([str(tmp_path / "a.whl"), *options])
    rows = capsys.readouterr().out.strip().splitlines()[2:]
    assert rows[0].split() == ["first", "use", "10", "(1.00)"]
    assert rows[-1].split()[-1] == f"({len(commands)}.00)"
    assert [row.split()[0] for row in rows[1:]][-1] == levels[-1].march


def test_gpu_on_a_cpu(script, monkeypatch, capsys):
    gpu = script("gpu")
    monkeypatch.setattr(gpu, "TRAINED", ((1, 32, 300, 16, 2, 0.1),))
    monkeypatch.setattr(gpu, "GENERATED", ((1, 64, 300),))
    monkeypatch.setattr(gpu, "NEW", 8)
    measured = gpu.seconds_of
    monkeypatch.setattr(gpu, "seconds_of", lambda work, repeated: measured(work, 1))
    gpu.main(["--device", "cpu", "--eager"])
    assert "1 x 32, vocabulary 300, 2 windows of 16: " in capsys.readouterr().out


def test_large_text(script, text, monkeypatch, capsys):
    monkeypatch.setenv("ATTNCLI_CACHE", "set by the script")
    script("large_text").main([text, "--times", "2", "--tokenizer", "char"])
    assert "again, from the cache:" in capsys.readouterr().out


def test_memory(script, text, monkeypatch, capsys):
    memory = script("memory")
    monkeypatch.setattr(memory, "plan_of", lambda command: json.loads(printed(command)))
    monkeypatch.setattr(memory, "peak_of", lambda command: len(printed(command)) or 1)
    memory.main([text, "--size", "1x32", "--vocab-size", "300", "--context", "16", "--batch-size", "1"])
    assert "peak / counted" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak of memory as Linux tells it")
@pytest.mark.parametrize("way", ["in place", "beside"])
def test_save(script, capsys, monkeypatch, way):
    save = script("save")
    from attncli.training import recipe

    monkeypatch.setattr(recipe, "COPIED_STATE", recipe.COPIED_STATE)  # the script sets it
    save.main(["--sizes", "1x32", "--saves", "1", "--way", way])
    assert way in capsys.readouterr().out


def test_spin(script, capsys):
    script("spin").main(["--measure", "--seconds", "0.1", "--dtype", "float32"])
    assert float(capsys.readouterr().out) > 0


def test_train_step(script, text, monkeypatch, capsys):
    train_step = script("train_step")
    monkeypatch.setattr(train_step, "LEAST_SECONDS", 0)
    train_step.main(["--models", "1x32", "--rounds", "1", "--profile"])
    said = capsys.readouterr().out
    assert "times" in said
    assert not kernels.available() or "product" in said
    train_step.main(["--curves", text, "--steps", "20"])
    assert "1 reports" in capsys.readouterr().out


def test_start(script, text, monkeypatch, capsys):
    start = script("start")
    assert run(["train", text, "--steps", "2", "--size", "1x32", "--context", "16", "--name", "m"]) == 0
    monkeypatch.setattr(start, "seconds", lambda *command: len(printed(list(command))) + 1.0)
    start.main(["checkpoints/m", "--rounds", "1"])
    assert "attncli generate" in capsys.readouterr().out


def test_train(script, text, monkeypatch, capsys):
    train = script("train")

    def in_steps(*command, cwd=None):
        words, at = list(command), command.index("--time")
        return len(printed([*words[:at], "--steps", "2", "--size", "1x32", *words[at + 2 :]])) + 1.0

    monkeypatch.setattr(train, "wall_clock", in_steps)
    train.main([text, "--times", "2s", "--rounds", "1"])
    assert "bits/character" in capsys.readouterr().out


def test_the_step_on_pairs_is_compared_with_a_decoder(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    path = write_pairs(tmp_path / "toy.tsv", made_pairs())
    script("train_pairs").main([path, "--size", "1x32", "--rounds", "1", "--steps", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["encoder-decoder", "decoder", "decoder"]
