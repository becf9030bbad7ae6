"""`attncli next`: the most probable next tokens at each temperature."""

from __future__ import annotations

from attncli.cli.bodies.results import show_result
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource
from attncli.cli.truncation import refuse_long, truncated
from attncli.generation.candidates import candidates
from attncli.render.candidates import candidates_document, candidates_screen


def run(
    text: str,
    source: ModelSource,
    dtype: str,
    temperatures: tuple[float, ...],
    top_k: int,
    *,
    truncate: bool,
    json: bool,
) -> None:
    """Prints the `top_k` most probable tokens after a text. Raises BadInput for a text longer than the context."""
    loaded = load(source, dtype)
    prompt = loaded.prompt(text)
    if truncate:
        (text,), (prompt,) = truncated(loaded.model.config, loaded.tokenizer, [text], [prompt])
    refuse_long(loaded.model.config, loaded.tokenizer, prompt)
    pieces = loaded.pieces(text)
    finding = candidates(loaded.model, loaded.tokenizer, prompt, temperatures, top_k)
    show_result(
        lambda: candidates_document(finding, loaded.name, text),
        lambda console: candidates_screen(finding, pieces, loaded.name, console.width),
        json=json,
    )
