"""Shortens the record of a run, so that the shipped model is small: python checkpoints/slim.py checkpoints/stories

In metrics.jsonl, every tenth report of a step and all other reports are kept; only loss curves read them. In run.json,
the names of the training texts are kept without their folders.
"""

import hashlib
import json
import sys
from pathlib import Path


def main() -> None:
    """Rewrites the record in the model directory that the command line names, and updates the manifest."""
    folder = Path(sys.argv[1])
    metrics, record, manifest = folder / "metrics.jsonl", folder / "run.json", folder / "manifest.json"
    lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    told = [json.loads(line) for line in lines]
    kept = [
        line for line, report in zip(lines, told, strict=True) if report["kind"] != "step" or report["step"] % 10 == 0
    ]
    metrics.write_text("".join(kept), encoding="utf-8")
    run = json.loads(record.read_text(encoding="utf-8"))
    corpus = run["corpus"]
    corpus["sources"] = [Path(source).name for source in corpus["sources"]]
    corpus["val_file"] = Path(corpus["val_file"]).name
    record.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    listed = json.loads(manifest.read_text(encoding="utf-8"))
    listed["sha256"] |= {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (metrics, record)}
    manifest.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
