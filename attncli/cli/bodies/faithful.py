"""`attncli faithful`: how well each ranking of sources says what a prediction depends on, over many passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attncli.checkpoint.load import LoadedModel
from attncli.cli.bodies.results import show_result
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource
from attncli.cli.texts import note_if_like_a_file
from attncli.config import CorpusConfig
from attncli.errors import BadInput
from attncli.explain.faithful import LEAST_TOKENS, faithfulness
from attncli.paths import is_file
from attncli.render.console import messages, print_note
from attncli.render.faithful import faithful_document, faithful_progress, faithful_screen
from attncli.text.files import read_documents
from attncli.text.passages import MOST_READ, draw_passages

_PASSAGES, _LONGEST = 50, 64  # of a file; tokens of one


@dataclass(frozen=True)
class _Drawn:
    """Passages of files as token ids, and how many characters of how many they were drawn from."""

    passages: list[list[int]]
    read: int
    of: int


def run(texts: Sequence[str], source: ModelSource, limit: int | None, seed: int, *, json: bool) -> None:
    """Prints the score of each ranking, over the texts and over passages drawn from those that are files."""
    loaded = load(source)
    files = [text for text in texts if text == "-" or is_file(text)]
    opening = loaded.tokenizer.opening
    said = [text for text in texts if text not in files]
    for text in said:
        note_if_like_a_file(text)
    rows = [[*opening, *loaded.tokenizer.encode(text)] for text in said]
    drawn = _drawn(files, loaded, limit or _PASSAGES, seed) if files else None
    if drawn is not None:
        rows += [[*opening, *passage] for passage in drawn.passages]
        if drawn.read < drawn.of:
            print_note(f"passages are drawn from the first {drawn.read:,} of {drawn.of:,} characters")
    with faithful_progress(messages(), len(rows)) as progress:
        found = faithfulness(loaded.model, rows, seed=seed, progress=progress)
    named = ", ".join("standard input" if file == "-" else file for file in files)
    origin = f"drawn from {named} · seed {seed}" if files else f"seed {seed}"
    show_result(
        lambda: faithful_document(found, loaded.name, files, drawn.read if drawn is not None else None),
        lambda console: faithful_screen(found, loaded.name, origin, console.width),
        json=json,
    )


def _drawn(files: list[str], loaded: LoadedModel, limit: int, seed: int) -> _Drawn:
    """Draws passages of files. Raises BadInput for a model whose context is too short."""
    longest = min(_LONGEST, loaded.model.config.context) - len(loaded.tokenizer.opening)
    if longest < LEAST_TOKENS:
        raise BadInput(f"The model reads {longest} tokens at once: {LEAST_TOKENS} are needed.", "Use another model.")
    documents = read_documents(files, CorpusConfig.encoding)
    for note in documents.notes:
        print_note(note)
    passages = draw_passages(
        documents, loaded.tokenizer, count=limit, shortest=LEAST_TOKENS, longest=longest, seed=seed
    )
    return _Drawn(passages, min(documents.characters, MOST_READ), documents.characters)
