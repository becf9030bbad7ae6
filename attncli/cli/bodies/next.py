"""`attncli next`: the most probable next tokens, or the most probable tokens for the masks of a text."""

from __future__ import annotations

from attncli.checkpoint.load import LoadedModel
from attncli.cli.bodies.results import show_result
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource
from attncli.cli.truncation import refuse_long, truncated
from attncli.generation.candidates import candidates, candidates_for_masks
from attncli.generation.defaults import target_and_source
from attncli.render.candidates import candidates_document, candidates_screen, masks_document, masks_screen
from attncli.text.tokenizer import Piece


def run(
    text: str,
    source: ModelSource,
    dtype: str,
    temperatures: tuple[float, ...],
    top_k: int,
    *,
    pair: str | None,
    target: str | None,
    truncate: bool,
    json: bool,
) -> None:
    """Prints the `top_k` most probable tokens after a text, or after the beginning `target` of its translation.

    For an encoder alone, prints the most probable tokens for each mask. `pair` is a second text. Raises BadInput for a
    text longer than the context, and UsageProblem for an option that does not apply to the model: a pair if it reads no
    pairs, a target if it does not translate, `truncate` if it is an encoder alone.
    """
    loaded = load(source, dtype)
    pieces = loaded.pieces(text, pair)
    if loaded.model.config.kind == "encoder":
        target_and_source(loaded, [], target)  # raises UsageProblem for a target
        if truncate:
            loaded.refuse_encoder("continues no text, so --truncate does not apply")
        _show_masks(loaded, text, pieces, temperatures, top_k, json=json)
        return
    prompt = loaded.prompt(text)
    if truncate:
        (text,), (prompt,) = truncated(loaded.model.config, loaded.tokenizer, [text], [prompt])
    refuse_long(loaded.model.config, loaded.tokenizer, prompt)
    pieces = loaded.pieces(text)
    begun, read = target_and_source(loaded, prompt, target)
    finding = candidates(loaded.model, loaded.tokenizer, begun, temperatures, top_k, read)
    beginning = (target or "") if loaded.translates else None
    written = loaded.tokenizer.target.pieces(beginning) if beginning else ()
    show_result(
        lambda: candidates_document(finding, loaded.name, text, beginning),
        lambda console: candidates_screen(finding, pieces, loaded.name, console.width, written),
        json=json,
    )


def _show_masks(
    loaded: LoadedModel, text: str, pieces: list[Piece], temperatures: tuple[float, ...], top_k: int, *, json: bool
) -> None:
    masks = candidates_for_masks(loaded.model, loaded.tokenizer, pieces, temperatures, top_k)
    show_result(
        lambda: masks_document(masks, loaded.name, text),
        lambda console: masks_screen(masks, pieces, loaded.name, console.width),
        json=json,
    )
