"""`attncli heads`."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from attncli.cli.options import (
    DeviceOption,
    JsonOption,
    ModelArgument,
    ModelOption,
    RevisionOption,
    SeedOption,
    count,
    draw_seed,
    unset,
)
from attncli.errors import UsageProblem

_LENGTH = "Random tokens, which come twice. Unset: by the model's context and windows, at most 50."
_REPEATS = "How many random texts to average over. Unset: 32."


# fmt: off
def heads(
    model: ModelArgument = None,
    model_option: ModelOption = None,
    revision: RevisionOption = None,
    length: Annotated[int | None, count(help=_LENGTH)] = None,
    repeats: Annotated[int | None, unset(help=_REPEATS)] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Also every head's scores, a row a head.")] = False,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    # fmt: on
    """Find out what every head is for: previous token, duplicate, induction or sink, each beside chance.

    attncli heads
    attncli heads my-model --all
    """
    from attncli.cli.loading import load
    from attncli.explain.heads import SEQUENCES, head_scores
    from attncli.render.console import output, print_json, show
    from attncli.render.heads import heads_document, heads_screen

    if model is not None and model_option is not None and model != model_option:
        raise UsageProblem(f"{model} and -m {model_option} name two models.", "Name one.")
    chosen = model or model_option
    loaded = load(chosen, device, "float32", revision)
    found = head_scores(
        loaded.model,
        loaded.start_of_text,
        min(loaded.tokenizer.vocab_size, loaded.model.config.vocab_size),
        length=length,
        sequences=SEQUENCES if repeats is None else repeats,
        seed=draw_seed() if seed is None else seed,
    )
    if json:
        print_json(heads_document(found, loaded.name))
    else:
        console = output()
        named = "" if chosen is None else f" -m {shlex.quote(chosen)}"
        show(console, heads_screen(found, loaded.name, console.width, everyone=everyone, named=named))
