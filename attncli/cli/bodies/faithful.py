"""`attncli faithful`: measures over many passages how faithful each ranking of the sources is."""

from __future__ import annotations

from collections.abc import Sequence

from attncli.cli.bodies.results import show_result
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource
from attncli.explain.faithful import faithfulness
from attncli.explain.passages import passages_of
from attncli.render.console import messages, print_note
from attncli.render.faithful import faithful_document, faithful_progress, faithful_screen
from attncli.text.reading import name_of


def run(texts: Sequence[str], files: list[str], source: ModelSource, passages: int, seed: int, *, json: bool) -> None:
    """Prints the score of each ranking, measured on the texts and on `passages` passages drawn from the files."""
    loaded = load(source)
    loaded.refuse_encoder("predicts no next token")
    loaded.refuse_translator("compares rankings, such as rollout, which is not defined across two texts")
    rows = [[*loaded.tokenizer.opening, *loaded.tokenizer.encode(text)] for text in texts]
    drawn = passages_of(files, loaded, passages, seed) if files else None
    if drawn is not None:
        for note in drawn.notes:
            print_note(note)
        rows += drawn.ids
        if drawn.characters_read < drawn.characters:
            print_note(
                f"passages are drawn from the first {drawn.characters_read:,} of {drawn.characters:,} characters"
            )
    with faithful_progress(messages(), len(rows)) as progress:
        finding = faithfulness(loaded.model, rows, seed=seed, progress=progress)
    named = ", ".join(map(name_of, files))
    origin = f"drawn from {named} · seed {seed}" if files else f"seed {seed}"
    show_result(
        lambda: faithful_document(finding, loaded.name, files, drawn.characters_read if drawn is not None else None),
        lambda console: faithful_screen(finding, loaded.name, origin, console.width),
        json=json,
    )
