"""Keeps a tenth of a run's lines about single steps, and all others: python checkpoints/slim.py checkpoints/stories

What ships with attncli is small; nothing but pictures of the loss reads these lines.
"""

import hashlib
import json
import sys
from pathlib import Path


def main() -> None:
    """Rewrites the record and its digest, of the directory that is named on the command line."""
    folder = Path(sys.argv[1])
    metrics, manifest = folder / "metrics.jsonl", folder / "manifest.json"
    lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    told = [json.loads(line) for line in lines]
    kept = [
        line for line, report in zip(lines, told, strict=True) if report["kind"] != "step" or report["step"] % 10 == 0
    ]
    metrics.write_text("".join(kept), encoding="utf-8")
    listed = json.loads(manifest.read_text(encoding="utf-8"))
    listed["sha256"]["metrics.jsonl"] = hashlib.sha256(metrics.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
