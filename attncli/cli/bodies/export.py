"""The body of `attncli export`: writes a model as a GGUF file, and checks the file before it gets its name."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import torch

from attncli.checkpoint.gguf.export import plan_export, stored_type, write_export
from attncli.checkpoint.gguf.verify import Verification, verify_export
from attncli.checkpoint.load import load_model
from attncli.cli.bodies.results import show_result
from attncli.cli.outputs import write_file
from attncli.cli.resolving import find_adapted
from attncli.cli.shared import AdaptedChoice
from attncli.render.console import print_note
from attncli.render.exported import gguf_document, gguf_screen
from attncli.render.status import status


def run(choice: AdaptedChoice, gguf: Path, dtype: str | None, *, json: bool) -> None:
    """Writes a model as a GGUF file, and prints what was checked.

    Raises UsageProblem for a model that llama.cpp cannot compute, BadCheckpoint if a model cannot be read or its
    tokenizer cannot be written, OutOfRoom, and Inexact if the file is not the model.
    """
    found = find_adapted(choice)
    status(f"reading {found.model.name}")
    loaded = load_model(found.model, torch.device("cpu"), None, found.adapter)
    plan = plan_export(loaded, dtype or stored_type(loaded))
    loaded.model.float()
    for note in (*loaded.notes, *plan.notes):
        print_note(note)
    checked: list[Verification] = []

    def write(file: BinaryIO) -> None:
        status(f"writing {gguf.name}")
        write_export(file, plan, loaded.model.state_dict())
        file.flush()
        status(f"checking {gguf.name}")
        checked.append(verify_export(Path(file.name), plan, loaded))

    write_file(gguf, "--gguf", write)
    show_result(
        lambda: gguf_document(gguf, plan, checked[0]), lambda console: gguf_screen(gguf, plan, checked[0]), json=json
    )
