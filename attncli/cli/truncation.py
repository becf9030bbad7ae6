"""Handles prompts that are longer than the context: refuses them, or with --truncate keeps their end."""

from __future__ import annotations

from collections.abc import Sequence

from attncli.config import ModelConfig
from attncli.errors import BadInput
from attncli.generation.engine import last_that_fit, refuse_unreadable
from attncli.render.console import print_note
from attncli.text.tokenizer import Tokenizer


def truncated(
    model: ModelConfig, tokenizer: Tokenizer, prompts: Sequence[str], ids: Sequence[list[int]]
) -> tuple[list[str], list[list[int]]]:
    """Returns the prompts and their ids, cut at the beginning to fit the context. Prints a note if a prompt is cut."""
    opening, closing = len(tokenizer.opening), len(tokenizer.closing) if model.encoder_layers else 0
    fitting = [last_that_fit(model, tokenizer, one) for one in ids]
    cut = [number for number, (one, kept) in enumerate(zip(ids, fitting, strict=True)) if len(kept) < len(one)]
    if cut:
        longest = max(cut, key=lambda number: len(ids[number]))
        left_out, of = len(ids[longest]) - len(fitting[longest]), len(ids[longest]) - opening - closing
        which = "the prompt" if len(prompts) == 1 else f"{len(cut)} of {len(prompts)} prompts; of line {longest + 1}"
        print_note(f"truncated {which}: the first {left_out:,} of {of:,} tokens are left out")
    kept_texts = list(prompts)
    for number in cut:
        kept_texts[number] = tokenizer.decode(fitting[number][opening : len(fitting[number]) - closing])
    return kept_texts, fitting


def refuse_long(model: ModelConfig, tokenizer: Tokenizer, ids: Sequence[int]) -> None:
    """Raises BadInput for an empty prompt and for a prompt longer than the context; the hint names --truncate."""
    try:
        refuse_unreadable(model, tokenizer, ids)
    except BadInput as problem:
        if ids:
            problem.hint += " With --truncate, only this end is read."
        raise
