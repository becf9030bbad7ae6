"""Measures how a large text is prepared, from the file to token ids: MB/s of each stage, and the peak memory.

usage: python benchmarks/large_text.py FILE [--times N] [--most CHARACTERS] [--tokenizer bpe]

--times N measures with a file of N copies of FILE. The token cache is a temporary folder.
"""

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from attncli.config import CorpusConfig
from attncli.text.corpus import prepare
from attncli.text.files import read_documents
from attncli.text.progress import Progress


class Laps:
    """Prints the time of each stage. A stage ends with the first report of the next stage."""

    def __init__(self, size: float) -> None:
        self._size, self._stage = size, "reading"
        self._began, self._used = time.perf_counter(), time.process_time()

    def heard(self, progress: Progress) -> None:
        if progress.stage != self._stage:
            self.lap()
            self._stage = progress.stage

    def lap(self) -> None:
        wall, cpu = time.perf_counter() - self._began, time.process_time() - self._used
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{self._stage:<24}{wall:8.2f} s {self._size / wall:8.1f} MB/s", end="")
        print(f"{cpu:8.2f} s of CPU {self._size / cpu:8.1f} MB/s {peak:7.0f} MiB", flush=True)
        self._began, self._used = time.perf_counter(), time.process_time()


def measure(path: Path, config: CorpusConfig) -> None:
    size = path.stat().st_size / 1e6
    print(f"{size:,.0f} MB, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB before")
    laps = Laps(size)
    made = prepare(read_documents([str(path)], progress=laps.heard), config, progress=laps.heard)
    laps.lap()
    print(f"{len(made.train):,} tokens to train on, {made.train.bytes / len(made.train):.3f} bytes each,", end=" ")
    print(f"{made.train.characters:,} characters of {made.train.characters + made.train.left_out:,}")
    laps = Laps(size)
    prepare(read_documents([str(path)]), config)
    print("again, from the cache:")
    laps.lap()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--most", type=int)
    parser.add_argument("--tokenizer", default="bpe")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ATTNCLI_CACHE"] = folder
        path = given.file
        if given.times > 1:
            path = Path(folder) / "copies.txt"
            with path.open("wb") as copies:
                for _ in range(given.times):
                    with given.file.open("rb") as one:
                        shutil.copyfileobj(one, copies)
        measure(path, CorpusConfig(tokenizer=given.tokenizer, most_characters=given.most))


if __name__ == "__main__":
    main()
