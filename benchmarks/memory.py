"""Compares the peak memory of a training run with the memory that its plan computed.

usage: python benchmarks/memory.py TEXT [train options, such as --size 6x384 --vocab-size 4096 --batch-size 16]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any


def peak_of(command: list[str]) -> int:
    """Returns the peak memory of a command, in bytes."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return usage.ru_maxrss * 1024


def plan_of(command: list[str]) -> dict[str, Any]:
    """Returns the JSON document that a command prints."""
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    given, options = parser.parse_known_args(arguments)
    attncli = [sys.executable, "-m", "attncli", "train", given.text, "--steps", "24", "--seed", "1", *options]
    plan = plan_of([*attncli, "--plan", "--json"])
    with tempfile.TemporaryDirectory() as folder:
        peak = peak_of([*attncli, "--out", f"{folder}/model"])
    counted = plan["memory_bytes"]
    print(f"parameters            {plan['parameters'] / 1e6:8.2f} M, {plan['dtype']}, {plan['batch_size']} windows")
    print(f"the plan counts       {counted / 1e6:8.0f} MB")
    print(f"peak                  {peak / 1e6:8.0f} MB")
    print(f"peak / counted        {peak / counted:8.2f}")


if __name__ == "__main__":
    main()
