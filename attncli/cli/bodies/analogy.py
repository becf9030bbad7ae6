"""`attncli analogy`: the tokens nearest to B - A + C."""

from __future__ import annotations

from attncli.cli.bodies.results import show_result
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource, Pictures
from attncli.explain.geometry import analogy, spell
from attncli.render.geometry import analogy_document, analogy_screen


def run(
    words: tuple[str, str, str], source: ModelSource, expect: str | None, count: int, json: bool, pictures: Pictures
) -> None:
    """Prints the nearest tokens. Raises UsageProblem for a word that the vocabulary lacks."""
    loaded = load(source)
    a, b, c = (spell(loaded.tokenizer, word) for word in words)
    expected = spell(loaded.tokenizer, expect) if expect is not None else None
    finding = analogy(loaded.model, loaded.tokenizer, (a, b, c), expected, count=count)
    show_result(
        lambda: analogy_document(finding, loaded.name),
        lambda console: analogy_screen(finding, loaded.name, console),
        json=json,
        title="attncli analogy",
        pictures=pictures,
    )
