"""Mutates small model directories of every family, runs commands on each, and reports results that no file may cause.

usage: python -m tests.campaign.mutants --count 500 --seed 0

All modules are imported once. Each mutant has its own forked child and its own folder, and a time limit of --seconds
per command. The report lists tracebacks, panics, exit codes other than 0, 2, 3, 4 and 5, signals, hangs, a peak of
memory above --memory, and leftover files. A mutant is reproduced by its number and the seed.
"""

import argparse
import collections
import ctypes
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", COLUMNS="80", TOKENIZERS_PARALLELISM="false")

ALLOWED = (0, 2, 3, 4, 5)
_CAPABILITIES_VERSION = 0x20080522
_IGNORE_PERMISSIONS = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
RAW = ("1e999", "-1e999", "NaN", "9" * 5000, "[" * 3000 + "]" * 3000)  # inserted verbatim into the text of a document
VALUES = (
    *(None, True, False, 0, 1, 2, 3, 7, 64, -1, -(2**31), 2**31 - 1, 2**31, 2**32 + 1, 2**53, 2**63, -(2**63), 10**30),
    *(
        int("9" * 4300),
        0.5,
        -0.5,
        -0.0,
        5e-324,
        1e-300,
        1e300,
        1.5,
        16_777_216,
        10_000,
        "",
        "x",
        "\0",
        "../x",
        "é" * 300,
    ),
    *(
        [],
        [1],
        [[]],
        {},
        {"a": 1},
        ["x"] * 3,
        "\ud800",
        "<|endoftext|>",
        "float32",
        "muon",
        *map("\1{}".format, range(len(RAW))),
    ),
)
CODE = (
    "auto_map",
    "trust_remote_code",
    "quantization_config",
    "rope_scaling",
    "sliding_window",
    "head_dim",
    "layer_types",
)
ROPE = (
    {"rope_type": "yarn", "factor": 4.0, "beta_slow": 1, "beta_fast": 32, "mscale": 1, "mscale_all_dim": 1},
    {
        "rope_type": "llama3",
        "factor": 8,
        "low_freq_factor": 1,
        "high_freq_factor": 4,
        "original_max_position_embeddings": 24,
    },
    {"rope_type": "linear", "factor": 2},
)
MODEL = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"),
    *("source.spm", "target.spm", "vocab.json"),
)
STATE = (
    "run.json",
    "metrics.jsonl",
    "state/state.json",
    "state/state.safetensors",
    "manifest.json",
    "generation_config.json",
)
COMMANDS = (
    *(
        ["info", "-m", "m"],
        ["info", "-m", "m", "--json"],
        ["tokenize", "a cat sat", "-m", "m"],
        ["next", "a cat", "-m", "m"],
    ),
    *(
        ["generate", "a cat", "-m", "m", "-n", "4", "-s", "1"],
        ["generate", "a", "-m", "m", "-n", "3", "--verify", "-s", "1"],
    ),
    *(["explain", "a cat sat", "-m", "m"], ["eval", "text.txt", "-m", "m"], ["models"], ["heads", "-m", "m"]),
    ["train", "text.txt", "--from", "m", "--steps", "1", "--context", "8", "--batch-size", "1", "--out", "new"],
)
COMMANDS_OF_ENCODER = (
    *(["info", "-m", "m"], ["tokenize", "a cat sat", "-m", "m"], ["next", "a [MASK] sat", "-m", "m"], ["models"]),
    *(
        ["generate", "a cat", "-m", "m", "-n", "4", "-s", "1"],
        ["generate", "a cat", "-m", "m", "-n", "4", "--beams", "3"],
        ["generate", "a", "-m", "m", "-n", "3", "--verify", "-s", "1"],
    ),
    *(["explain", "a cat sat", "-m", "m"], ["explain", "a cat", "--target", "eine Katze", "-m", "m"]),
    *(["explain", "a cat", "-m", "m", "--part", "encoder", "--view", "grid"], ["eval", "pairs.tsv", "-m", "m"]),
    *(["align", "pairs.tsv", "-m", "m"], ["align", "--gold", "gold.tsv", "-m", "m"]),
    ["train", "pairs.tsv", "--from", "m", "--steps", "1", "--out", "new"],
)
RESUME = ["train", "--resume", "--out", "m"]
COMMANDS_OF_RUN = (
    RESUME,
    RESUME,
    ["models", "--json"],
    ["info", "-m", "m"],
    ["plot", "m"],
    ["generate", "a", "-m", "m", "-n", "3"],
)
OTHERS = {"run": COMMANDS_OF_RUN, "encoder-": COMMANDS_OF_ENCODER}  # by the beginning of a directory's name


# Directories to mutate


def write_bases(folder: Path) -> None:
    """Writes a directory of every family, one with shards, a Marian with SentencePiece models, and two stopped runs."""
    import torch

    from attncli.checkpoint.load import load_model
    from attncli.model import native
    from tests.support.pairs import made_pairs, write_pairs
    from tests.support.texts import story

    (folder / "text.txt").write_text(story(700))
    write_pairs(folder / "pairs.tsv", made_pairs(80))
    (folder / "gold.tsv").write_text("a cat\teine Katze\t0-0 1-1\nthe dog barks\tder Hund\t0-0 1p1\n")
    os.chdir(folder)
    write_decoders(folder)
    write_models_with_encoder(folder)
    write_run(folder / "run", "text.txt")
    write_run(folder / "run-pairs", "pairs.tsv")
    native.NativeBackend(
        load_model(folder / "qwen3", torch.device("cpu"), None).model, threads=1
    )  # compiles native.c once


def write_decoders(folder: Path) -> None:
    """Writes a decoder of every family, and one with shards."""
    from safetensors.torch import load_file, save_file

    from attncli.checkpoint.save import Checkpoint, write_checkpoint
    from attncli.text.tokenizer_training import byte_tokenizer, train_tokenizer
    from tests.support.models import FAMILIES, tiny_model
    from tests.support.texts import story

    for at, (name, switches) in enumerate(FAMILIES.items()):
        tokenizer = byte_tokenizer() if at % 2 else train_tokenizer([story(300)], "bpe", 280)
        model = tiny_model(vocab_size=280, context=64, **switches)
        write_checkpoint(folder / name, Checkpoint(model.config, model.state_dict(), tokenizer, 10))
    shutil.copytree(folder / "qwen3", folder / "sharded")
    tensors = load_file(folder / "sharded" / "model.safetensors")
    (folder / "sharded" / "model.safetensors").unlink()
    (folder / "sharded" / "manifest.json").unlink()
    index = {name: f"model-{at % 3}.safetensors" for at, name in enumerate(sorted(tensors))}
    for file in set(index.values()):
        save_file({name: tensors[name] for name in tensors if index[name] == file}, folder / "sharded" / file)
    (folder / "sharded" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def write_models_with_encoder(folder: Path) -> None:
    """Writes an encoder-decoder of every family, a Marian with SentencePiece models, and a BERT.

    Their names begin with 'encoder-'.
    """
    from attncli.checkpoint.save import Checkpoint, write_checkpoint
    from tests.support.encoders import write_bert
    from tests.support.models import ENCODER_DECODERS, tiny_model
    from tests.support.sentence_pieces import SIDES, train_pieces, write_pieces
    from tests.support.translations import TOKENIZER

    for name, switches in ENCODER_DECODERS.items():
        model = tiny_model(vocab_size=280, context=64, **switches)
        path = folder / f"encoder-{name}"
        write_checkpoint(path, Checkpoint(model.config, model.state_dict(), TOKENIZER, 2, end_ids=frozenset({2})))
    pieces = folder / "encoder-pieces"
    shutil.copytree(folder / "encoder-marian", pieces)
    for name in ("tokenizer.json", "tokenizer_config.json", "manifest.json"):
        (pieces / name).unlink()
    write_pieces(pieces, {side: train_pieces(texts) for side, texts in SIDES.items()})
    write_bert(folder / "encoder-bert")


def write_run(target: Path, file: str) -> None:
    """Writes a run on a file of text or pairs that was stopped after three steps."""
    from attncli.config import CorpusConfig, TrainConfig
    from attncli.training import new_job, train

    config = TrainConfig(steps=8, size="1x32", context=None if file == "pairs.tsv" else 16, dtype="float32")
    config = config if file == "pairs.tsv" else replace(config, batch_size=2)
    job = new_job([file], None, CorpusConfig(vocab_size=300), config)
    stops = iter([False, False, False, True])
    plan = replace(job.plan, eval_every=2, report_every=1)
    list(train(job.corpus, plan, target, facts=job.facts, stop=lambda: next(stops)))


# Mutations


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of every value inside a document, and of some values of a large object or list."""
    inside = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in list(inside)[:40]:
        yield (*path, key)
        yield from places(value, (*path, key))


def change(document: Any, drawn: random.Random) -> Any:
    """Returns a document with one value replaced, removed, repeated, nested or added."""
    found = list(places(document))
    if not found or drawn.random() < 0.03:
        return drawn.choice(VALUES)
    *path, last = drawn.choice(found)
    owner = document
    for key in path:
        owner = owner[key]
    way = drawn.random()
    if way < 0.6:
        owner[last] = drawn.choice(VALUES)
    elif way < 0.75:
        del owner[last]
    elif way < 0.8:
        owner[last] = [owner[last]] * drawn.choice([1, 2, 300])
    elif way < 0.85 and isinstance(owner, dict):
        owner[drawn.choice(["x", "", "__metadata__", "\ud800", *CODE])] = drawn.choice(VALUES)
    elif way < 0.9 and isinstance(owner[last], int | float) and not isinstance(owner[last], bool):
        owner[last] = owner[last] + drawn.choice([-1, 1, 2**31, 0.5])
    else:
        owner[last] = {"a": owner[last]}
    return document


def text_of(document: Any) -> bytes:
    """Returns a document as JSON text, in which the raw texts of RAW replace their marks."""
    text = json.dumps(document)
    for at, raw in enumerate(RAW):
        text = text.replace(f'"\\u0001{at}"', raw)
    return text.encode("utf-8", "surrogatepass")


def mutate_json(data: bytes, drawn: random.Random) -> bytes:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(data, drawn)
    return mutate_document(document, drawn)


def mutate_document(document: Any, drawn: random.Random) -> bytes:
    for _ in range(drawn.choice([1, 1, 2, 3])):
        document = change(document, drawn)
    return text_of(document)


def mutate_config(data: bytes, drawn: random.Random) -> bytes:
    """Mutates a config.json, including settings that a small model of ours does not have."""
    document = json.loads(data)
    if drawn.random() < 0.3:
        document["rope_scaling"] = change(dict(drawn.choice(ROPE)), drawn)
    if drawn.random() < 0.2:
        document |= {
            "use_sliding_window": True,
            "sliding_window": drawn.choice(VALUES),
            "max_window_layers": drawn.choice(VALUES),
        }
    return mutate_document(document, drawn)


def mutate_bytes(data: bytes, drawn: random.Random) -> bytes:
    way = drawn.random()
    if way < 0.2:
        return data[: drawn.randrange(len(data) + 1)]
    if way < 0.3:
        return drawn.choice(
            [b"", b"\0", b"[]", b"{}", b"\xff\xfe{\0}\0", b"[" * 100_000, b"null", b'"x"', b"\x80\x04K\x01."]
        )
    if way < 0.4:
        return data.decode("utf-8", "replace").encode("utf-16")
    changed = bytearray(data or b"x")
    for _ in range(drawn.choice([1, 4, 40])):
        changed[drawn.randrange(len(changed))] = drawn.randrange(256)
    return bytes(changed)


def mutate_lines(data: bytes, drawn: random.Random) -> bytes:
    lines = data.split(b"\n")
    at = drawn.randrange(len(lines))
    lines[at] = drawn.choice([mutate_json, mutate_bytes])(lines[at] or b"{}", drawn)
    return b"\n".join(lines)


def mutate_tensors(data: bytes, drawn: random.Random) -> bytes:
    """Mutates the header of a safetensors file, the length of the header, or the data."""
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    way = drawn.random()
    if way < 0.5:
        text = mutate_json(header, drawn)
        return struct.pack("<Q", len(text)) + text + rest
    if way < 0.6:
        length = drawn.choice([0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1])
        return struct.pack("<Q", length) + header + rest
    if way < 0.8:
        at = drawn.randrange(len(rest) // 4) * 4
        value = drawn.choice([float("nan"), float("inf"), 1e38, -1e38, 0.0])
        return data[: 8 + length] + rest[:at] + struct.pack("<f", value) + rest[at + 4 :]
    if way < 0.9:  # one more tensor
        document = json.loads(header)
        size = drawn.choice([4, 1 << 20])
        name = drawn.choice(
            ["x", "lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.99.x", "weights.x"]
        )
        document[name] = {"dtype": "F32", "shape": [size // 4], "data_offsets": [len(rest), len(rest) + size]}
        text = json.dumps(document).encode()
        return struct.pack("<Q", len(text)) + text + rest + b"\0" * size
    return mutate_bytes(data, drawn)


def mutate_file(path: Path, drawn: random.Random) -> str:
    """Changes the content of a file; returns a description of the change."""
    name = path.name
    ways: Callable[[bytes, random.Random], bytes] = mutate_json
    if drawn.random() < 0.15:
        ways = mutate_bytes
    elif name == "config.json":
        ways = mutate_config
    elif name.endswith(".safetensors"):
        ways = mutate_tensors
    elif name.endswith(".jsonl"):
        ways = mutate_lines
    path.write_bytes(ways(path.read_bytes(), drawn))
    return ways.__name__


def replace_file(path: Path, drawn: random.Random) -> str:
    """Replaces a file by something that is not a regular, readable file; returns what it is."""
    what = drawn.choice(
        ["fifo", "zero", "full", "folder", "unreadable", "missing", "empty", "loop", "dangling", "socket"]
    )
    mode = path.stat().st_mode
    path.unlink()
    if what == "fifo":
        os.mkfifo(path)
    elif what in ("zero", "full"):
        path.symlink_to(f"/dev/{what}")
    elif what == "folder":
        path.mkdir()
    elif what == "unreadable":
        path.write_bytes(b"{}")
        path.chmod(0)
    elif what == "empty":
        path.write_bytes(b"")
        path.chmod(mode)
    elif what in ("loop", "dangling"):
        path.symlink_to(path.name if what == "loop" else "nowhere")
    elif what == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # the path of a socket must be short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(here)
    return what


def rewrite_digests(folder: Path) -> None:
    """Writes the present digests of the files to the manifest."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
        for name in manifest["sha256"]:
            if (folder / name).is_file():
                manifest["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        path.write_text(json.dumps(manifest))
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        pass  # the mutation changed the manifest itself


def mutant(bases: Path, folder: Path, drawn: random.Random, only: str) -> tuple[str, str]:
    """Writes a mutant to `folder`; returns the name of its base, and what was changed.

    The base is drawn from the names that contain `only`. About a third are stopped runs, if there are any.
    """
    names = sorted(path.name for path in bases.iterdir() if path.is_dir() and only in path.name)
    names = [name for name in names if name[0] != "." and name != "cache"]
    runs, models = ([name for name in names if name.startswith("run") == of_run] for of_run in (True, False))
    base = drawn.choice(runs if not models or (runs and drawn.random() < 0.3) else models)
    of_run = base in runs
    shutil.copytree(bases / base, folder / "m")
    for name in ("text.txt", "pairs.tsv", "gold.tsv"):
        shutil.copy(bases / name, folder / name)
    shards = sorted(path.name for path in (folder / "m").iterdir() if path.name.startswith("model"))
    files = STATE if of_run and drawn.random() < 0.85 else (*MODEL[:4], *shards)
    name = drawn.choice([name for name in files if (folder / "m" / name).is_file()])
    way = (replace_file if drawn.random() < 0.15 else mutate_file)(folder / "m" / name, drawn)
    trusted = drawn.random()
    if of_run or trusted < 0.5:
        rewrite_digests(folder / "m")
    elif trusted < 0.9:
        (folder / "m" / "manifest.json").unlink(missing_ok=True)
    return base, f"{base}/{name} {way}"


# Running


def obey_permissions() -> None:
    """Drops the capabilities with which a superuser's process ignores file permissions."""
    if os.geteuid() or not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) == 0:
        sets[0] &= ~_IGNORE_PERMISSIONS  # effective
        libc.capset(header, sets)


def run_commands(folder: Path, commands: list[list[str]], told: int, seconds: int) -> None:
    """Runs every command in this child. Writes a line of JSON for each: its code and seconds, or what is wrong."""
    from attncli.cli.main import run

    os.chdir(folder)
    obey_permissions()
    for command in commands:
        os.write(told, json.dumps({"begins": command}).encode() + b"\n")
        signal.alarm(seconds)
        wrong, began = "", time.monotonic()
        try:
            code = run(command)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            code, wrong = 1, traceback.format_exc()
        signal.alarm(0)
        ended = {"code": code, "wrong": wrong, "seconds": time.monotonic() - began}
        os.write(told, json.dumps(ended).encode() + b"\n")


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def outcome(folder: Path, commands: list[list[str]], memory: int, seconds: int) -> list[str]:
    """Runs the commands on a mutant and returns what went wrong, a line for each finding."""
    reading, writing = os.pipe()
    before = names_in(folder)
    with (folder.parent / "output").open("w+b") as output:
        child = os.fork()
        if child == 0:
            os.close(reading)
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_AS, (memory << 24, memory << 24))
            try:
                run_commands(folder, commands, writing, seconds)
                sys.stdout.flush()
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as told:
            lines = [json.loads(line) for line in told]
        _, status, used = os.wait4(child, 0)
        output.seek(0)
        printed = output.read().decode("utf-8", "replace")
    findings = []
    now: list[str] = []
    for line in lines:
        now = line.get("begins", now)
        if line.get("wrong"):
            last = line["wrong"].strip().splitlines()
            at = [row.strip() for row in last if "attncli/" in row][-1:]
            findings.append(f"traceback: {last[-1][:160]} · {' '.join(at)} · {' '.join(now)}")
        elif line.get("code") not in (None, *ALLOWED):
            findings.append(f"code {line['code']}: {' '.join(now)}: {printed.strip()[-300:]}")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        findings.append(f"{'hang' if number == signal.SIGALRM else signal.Signals(number).name}: {' '.join(now)}")
    for sign in ("Traceback", "panicked"):
        if sign in printed and not any("traceback" in finding for finding in findings):
            findings.append(f"{sign} is printed: {' '.join(now)}")
    if used.ru_maxrss > memory << 10:
        findings.append(f"memory {used.ru_maxrss >> 10:,} MB: {' '.join(now)}")
    allowed = {"new", ".m.previous"} if any(line.get("code") == 0 for line in lines) else set()
    if left := names_in(folder) - before - allowed:
        findings.append(f"left {sorted(left)}: {' '.join(now)}")
    return findings


def import_everything() -> None:
    """Imports all modules, so that no child has to."""
    import attncli.cli.main
    import attncli.explain.first_screen
    import attncli.explain.heads
    import attncli.generation.verify
    import attncli.render.first_screen
    import attncli.render.heads
    import attncli.render.live
    import attncli.render.verify
    import attncli.training.job
    import attncli.training.loop
    import attncli.training.resume  # noqa: F401


def in_a_child(work: Callable[[], None]) -> None:
    """Runs `work` in a child, because its threads would break processes that are forked later."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit("the directories to mutate could not be made")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="mutants (500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first mutant, to make one again (0)")
    parser.add_argument("--memory", type=int, default=1000, help="MB a child may take at its peak (1000)")
    parser.add_argument("--seconds", type=int, default=20, help="that a command may take: more on a busy machine (20)")
    parser.add_argument("--only", default="", help="mutate the directories with this in their name, such as encoder")
    parser.add_argument("--keep", type=Path, help="a folder for the mutants with findings")
    given = parser.parse_args()
    began, wrong = time.monotonic(), collections.Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        base.chmod(0o755)
        os.environ["ATTNCLI_CACHE"] = str(base / "bases" / "cache")
        (base / "bases" / "cache").mkdir(parents=True)
        import_everything()
        in_a_child(lambda: write_bases(base / "bases"))
        for number in range(given.first, given.first + given.count):
            drawn = random.Random(given.seed * 1_000_003 + number)
            folder = base / "work"
            folder.mkdir(mode=0o755)
            name, what = mutant(base / "bases", folder, drawn, given.only)
            kept = base / "kept"
            shutil.rmtree(kept, ignore_errors=True)
            if given.keep:
                shutil.copytree(folder, kept, symlinks=True, copy_function=_copy)
            possible = next((these for kind, these in OTHERS.items() if name.startswith(kind)), COMMANDS)
            commands = [RESUME] if possible is COMMANDS_OF_RUN and drawn.random() < 0.5 else []
            commands += drawn.sample(possible, 3 - len(commands))
            findings = outcome(folder, commands, given.memory, given.seconds)
            for finding in findings:
                wrong[finding.partition(":")[0]] += 1
                print(f"{number}: {what}: {finding}", flush=True)
            if findings and given.keep:
                shutil.move(kept, given.keep / str(number))
            shutil.rmtree(folder)
    print(f"{given.count} mutants in {time.monotonic() - began:.0f} s; {sum(wrong.values())} findings {dict(wrong)}")
    return int(bool(wrong))


def _copy(source: str, target: str) -> None:
    """Copies a regular file; skips pipes and sockets."""
    if Path(source).is_file():
        shutil.copy2(source, target)


if __name__ == "__main__":
    sys.exit(main())
