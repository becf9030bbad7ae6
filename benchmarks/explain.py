"""Measures the time and memory of `attncli explain`, for a sentence and for longer texts.

usage: python benchmarks/explain.py [--rounds 5] [--only start|side|long] [--tokens 8192]

start: seconds of `attncli explain SENTENCE` beyond `import torch`, with 12 million random parameters.
side:  seconds for 1,024 tokens with 110 million parameters, alternating with a forward pass of transformers that
       returns every attention weight. Also the peak memory of each beyond the weights, in its own process.
long:  the peak memory for a text as long as the context.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

SENTENCE = "He sat on the river's bank"
SHAPES = {"small": (6, 384, 4096, 256), "large": (12, 768, 32000, 8192)}  # layers, width, vocabulary, context
PEAK_GIB = 1 << 20  # kilobytes
os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # as the command line does


def write_model(folder: Path, name: str) -> None:
    """Writes a model with random weights, whose vocabulary is learned from a text that comes with Python."""
    from pydoc_data.topics import topics

    import torch

    from attncli.checkpoint.save import Checkpoint, write_checkpoint
    from attncli.model.transformer import Transformer, initialize
    from attncli.text.tokenizer_training import train_tokenizer
    from attncli.training.shapes import shape

    model = Transformer(shape(*SHAPES[name]))
    initialize(model, torch.Generator().manual_seed(0))
    tokenizer = train_tokenizer(topics.values(), "bpe", 4096)
    write_checkpoint(folder / name, Checkpoint(model.config, model.state_dict(), tokenizer, start_of_text=1))


def seconds(*command: str) -> tuple[float, float]:
    """Returns the elapsed time and the CPU time of a command in seconds."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime


def start(folder: Path, rounds: int) -> None:
    write_model(folder, "small")
    commands = {
        "import torch": (sys.executable, "-c", "import torch"),
        "attncli explain": (sys.executable, "-m", "attncli", "explain", "-m", str(folder / "small"), SENTENCE),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            times[name].append(seconds(*command))
    alone: list[float] = []
    for name, measured in times.items():
        medians = [statistics.median(column) for column in zip(*measured, strict=True)]
        alone = alone or medians
        more = "".join(f"   {value:6.3f} ({value - base:+.3f})" for value, base in zip(medians, alone, strict=True))
        print(f"{name:<20}{more}   seconds by the clock, and of cores, beside import torch")


def ways(folder: Path, tokens: int):  # type: ignore[no-untyped-def]
    """Returns the measurements by name. Each is a function that prepares the work and returns a function to time."""
    import torch

    def ours(check: bool = True):  # type: ignore[no-untyped-def]
        from attncli.checkpoint.load import load_model
        from attncli.explain.first_screen import explain
        from attncli.explain.question import Focus
        from attncli.explain.reading import Reading
        from attncli.text.tokenizer import Piece

        loaded = load_model(folder / "large", torch.device("cpu"), torch.float32)
        drawn = torch.randint(4096, (tokens,), generator=torch.Generator().manual_seed(1)).tolist()
        pieces = [Piece(id_, "a", 1) for id_ in drawn]
        return lambda: explain(Reading.of(loaded.model, pieces), loaded.tokenizer, Focus(), check=check)

    def theirs():  # type: ignore[no-untyped-def]
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder / "large", attn_implementation="eager", dtype=torch.float32)
        ids = torch.randint(4096, (1, tokens), generator=torch.Generator().manual_seed(1))
        return lambda: torch.inference_mode()(model)(ids, output_attentions=True, use_cache=False)

    return {"explain": ours, "explain, no checks": lambda: ours(check=False), "transformers": theirs}


def held(what: str) -> float:
    """Returns the memory of this process in GiB: VmRSS is the current value, VmHWM the peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / PEAK_GIB


def peak(folder: Path, tokens: int, way: str) -> None:
    """Prints the memory after loading the model, and the peak beyond this memory, in GiB."""
    run = ways(folder, tokens)[way]()
    before = held("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    began, used = time.perf_counter(), time.process_time()
    run()
    print(f"{way:<20} {tokens:>6} tokens   {time.perf_counter() - began:7.2f} s", end="   ")
    print(f"{time.process_time() - used:7.2f} s of cores", end="   ")
    print(f"{held('VmHWM') - before:6.2f} GiB beyond the {before:.2f} of weights and libraries")


def peaks(folder: Path, tokens: int, *names: str) -> None:
    for way in names:
        command = (sys.executable, __file__, "--peak", way, "--folder", str(folder), "--tokens", str(tokens))
        print(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout, end="", flush=True)


def side(folder: Path, rounds: int) -> None:
    runs = {name: make() for name, make in ways(folder, 1024).items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for at in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if at:  # the first round warms up
                times[name].append(time.perf_counter() - began)
    for name, measured in times.items():
        ratio = statistics.median(a / b for a, b in zip(measured, times["transformers"], strict=True))
        print(f"{name:<20}   1024 tokens   {statistics.median(measured):7.2f} s   {ratio:.2f} of transformers")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("start", "side", "long"))
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--peak")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args(arguments)
    if given.peak:
        return peak(given.folder, given.tokens, given.peak)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if given.only in (None, "start"):
            start(folder, given.rounds)
        if given.only in (None, "side", "long"):
            write_model(folder, "large")
        if given.only in (None, "side"):
            side(folder, given.rounds)
            peaks(folder, 1024, "explain", "transformers")
        if given.only in (None, "long"):
            peaks(folder, given.tokens, "explain")
    return None


if __name__ == "__main__":
    main()
