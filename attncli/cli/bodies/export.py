"""The body of `attncli export`: writes a model as a GGUF file or as a directory, and checks what it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import torch

from attncli.checkpoint.chat import read_chat_template, read_special_tokens
from attncli.checkpoint.families.registry import family_of
from attncli.checkpoint.gguf.export import plan_export, stored_type, write_export
from attncli.checkpoint.gguf.verify import Verification, verify_export
from attncli.checkpoint.load import LoadedModel, load_model
from attncli.checkpoint.save import Borders, Checkpoint, write_checkpoint
from attncli.checkpoint.target import claimed
from attncli.cli.bodies.results import show_result
from attncli.cli.outputs import write_file
from attncli.cli.resolving import find_adapted
from attncli.cli.shared import AdaptedChoice
from attncli.errors import Inexact, UsageProblem
from attncli.model.device import DTYPES, dtype_name
from attncli.paths import exists, real, resolved
from attncli.render.console import print_note
from attncli.render.exported import directory_document, directory_screen, gguf_document, gguf_screen
from attncli.render.status import status
from attncli.training.provenance import KEPT


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


def run_directory(choice: AdaptedChoice, out: Path, dtype: str | None, *, force: bool, json: bool) -> None:
    """Writes a model, with its adapter merged into the weights, as a directory, and reads it back.

    The directories of the model and of the adapter are only read. Raises UsageProblem for a directory that exists or a
    model that cannot be written, BadCheckpoint, OutOfRoom, and Inexact if the directory is not the model.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UsageProblem(f"--dtype {dtype} is for --gguf.", f"Use {', '.join(DTYPES)}.")
    found, target = find_adapted(choice), resolved(out)
    for read in (found.model, found.adapter):
        if read is not None and real(target).is_relative_to(real(read)):
            raise UsageProblem(f"{out} is {read} or inside it, and {read} is only read.", "Choose another --out.")
    if exists(target) and not force:
        raise UsageProblem(f"{out} exists.", "Choose another --out, or --force to replace it.")
    status(f"reading {found.model.name}")
    cpu = torch.device("cpu")
    loaded = load_model(found.model, cpu, None if dtype is None else DTYPES[dtype], found.adapter)
    for note in loaded.notes:
        print_note(note)
    try:
        family_of(loaded.model.config)
    except ValueError:
        raise UsageProblem(f"{found.model} has a shape that no family expresses.", "Use its own directory.") from None
    weights = loaded.model.state_dict()
    with claimed(target, force=True):
        status(f"writing {target.name}")
        write_checkpoint(target, _checkpoint_of(loaded))
        status(f"checking {target.name}")
        again = load_model(target, cpu, None).model.state_dict()
    if again.keys() != weights.keys() or not all(torch.equal(again[name], weights[name]) for name in weights):
        raise Inexact(f"{out} does not contain the weights of the model.", "Report this as a bug of attncli.")
    written = dtype_name(loaded.model.embedding.weight.dtype)
    numbers = sum(tensor.numel() for tensor in weights.values())
    show_result(
        lambda: directory_document(target, found.adapter, numbers, written),
        lambda console: directory_screen(target, found.adapter, numbers, written),
        json=json,
    )


def _checkpoint_of(loaded: LoadedModel) -> Checkpoint:
    """Returns a loaded model as it is saved, with the chat template and the special tokens of its directory."""
    borders = Borders(loaded.start_of_text, loaded.end_ids, loaded.forced, loaded.banned, loaded.forced_end)
    template = read_chat_template(loaded.path)
    return Checkpoint(
        loaded.model.config,
        loaded.model.state_dict(),
        loaded.tokenizer,
        **borders._asdict(),
        run={key: loaded.run[key] for key in KEPT if key in loaded.run},
        special_tokens=read_special_tokens(loaded.path),
        chat_template=None if template is None else template.source,
    )
