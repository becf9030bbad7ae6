"""Shortens the record of a run, so that a shipped model is small: python checkpoints/slim.py checkpoints/stories

In metrics.jsonl, every tenth report of a step and all other reports are kept; only loss curves read them. In run.json,
the names of the training texts are kept without their folders. A second call changes nothing.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

_KEPT = 10  # every tenth report of a step is kept


def main() -> None:
    """Rewrites the record in the model directory that the command line names, and updates the manifest."""
    folder = Path(sys.argv[1])
    metrics, record, manifest = folder / "metrics.jsonl", folder / "run.json", folder / "manifest.json"
    run = json.loads(record.read_text(encoding="utf-8"))
    lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    every = _KEPT * run["plan"]["report_every"]
    metrics.write_text("".join(line for line in lines if _is_kept(json.loads(line), every)), encoding="utf-8")
    corpus = run["corpus"]
    corpus["sources"] = [Path(source).name for source in corpus["sources"]]
    corpus["val_file"] = Path(corpus["val_file"]).name
    record.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    listed = json.loads(manifest.read_text(encoding="utf-8"))
    listed["sha256"] |= {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (metrics, record)}
    manifest.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


def _is_kept(report: dict[str, Any], every: int) -> bool:
    return bool(report["kind"] != "step" or report["step"] % every == 0)


if __name__ == "__main__":
    main()
