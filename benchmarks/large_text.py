"""From a file to a training part and a validation part of tokens: MB/s of every stage, and the most memory taken.

usage: python benchmarks/large_text.py FILE [--times N] [--most CHARACTERS] [--tokenizer bpe]

--times N makes a file of N copies of FILE and measures with that. The token cache is a temporary one.
"""

import argparse
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

from attncli.config import CorpusConfig
from attncli.text.corpus import Part, count_tokens, learn_tokenizer, prepare
from attncli.text.files import read_documents


def measure(path: Path, config: CorpusConfig) -> None:
    size = path.stat().st_size / 1e6

    def lap(name: str) -> None:
        nonlocal began, used
        wall, cpu = time.perf_counter() - began, time.process_time() - used
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{name:<24}{wall:8.2f} s {size / wall:8.1f} MB/s {cpu:8.2f} s of CPU {size / cpu:8.1f} MB/s {peak:7.0f} MiB"
        )
        began, used = time.perf_counter(), time.process_time()

    began, used = time.perf_counter(), time.process_time()
    documents = read_documents([str(path)])
    lap("reading")
    if config.most_characters is None:
        part = Part.whole(documents, documents.count > 1)
        tokenizer = learn_tokenizer(part, config)
        lap("learning the vocabulary")
        tokens, _ = count_tokens(part, tokenizer)
        lap("tokenizing")
        print(f"{documents.bytes / tokens:.3f} bytes per token, {tokenizer.vocab_size:,} ids")
    began, used = time.perf_counter(), time.process_time()
    made = prepare(documents, config)
    lap("all of prepare")
    print(f"{len(made.train):,} tokens to train on, {len(made.val):,} to validate on")
    began, used = time.perf_counter(), time.process_time()
    prepare(read_documents([str(path)]), config)
    lap("again, from the cache")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--most", type=int)
    parser.add_argument("--tokenizer", default="bpe")
    given = parser.parse_args()
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
