"""`attncli faithful`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from attncli.cli.options import (
    DeviceOption,
    JsonOption,
    ModelOption,
    RevisionOption,
    SeedOption,
    count,
    draw_seed,
    note_if_like_a_file,
)
from attncli.config import CorpusConfig
from attncli.errors import BadInput, UsageProblem
from attncli.paths import is_file

if TYPE_CHECKING:
    from attncli.text.tokenizer import Tokenizer

_TEXTS = "Text files, - for standard input, or texts; of a file, beginnings of paragraphs are drawn."
_LIMIT = "At most so many passages of a file. Unset: 50."
_PASSAGES, _LONGEST = 50, 64  # of a file; tokens of one


# fmt: off
def faithful(
    texts: Annotated[list[str] | None, typer.Argument(metavar="FILE|TEXT", help=_TEXTS, show_default=False)] = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    limit: Annotated[int | None, count(help=_LIMIT)] = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    # fmt: on
    """Test which view of attention says what matters: the sources it ranks first are cut, and all others are.

    attncli faithful book.txt
    attncli faithful book.txt --limit 200 --seed 1
    """
    if not texts:
        raise UsageProblem("There is no text.", "Give a file: attncli faithful book.txt")
    if limit is not None and limit < 1:
        raise UsageProblem(f"--limit {limit} is not at least 1.", "50 give a first answer.")
    from attncli.cli.loading import load
    from attncli.explain.faithful import faithfulness
    from attncli.render.console import messages, output, print_json, print_note, show
    from attncli.render.faithful import faithful_document, faithful_progress, faithful_screen

    loaded = load(model, device, "float32", revision)
    chosen = draw_seed() if seed is None else seed
    files = [text for text in texts if text == "-" or is_file(text)]
    opening = loaded.tokenizer.opening
    longest = min(_LONGEST, loaded.model.config.context) - len(opening)
    said = [text for text in texts if text not in files]
    for text in said:
        note_if_like_a_file(text)
    rows = [[*opening, *loaded.tokenizer.encode(text)] for text in said]
    read = None
    if files:
        passages, read, of = _drawn(files, loaded.tokenizer, limit or _PASSAGES, longest, chosen)
        rows += [[*opening, *passage] for passage in passages]
        if read < of:
            print_note(f"passages are drawn from the first {read:,} of {of:,} characters")
    with faithful_progress(messages(), len(rows)) as progress:
        found = faithfulness(loaded.model, rows, seed=chosen, progress=progress)
    if json:
        print_json(faithful_document(found, loaded.name, files, read))
    else:
        console = output()
        named = ", ".join("standard input" if file == "-" else file for file in files)
        drawn = f"drawn from {named} · seed {chosen}" if files else f"seed {chosen}"
        show(console, faithful_screen(found, loaded.name, drawn, console.width))


def _drawn(
    files: list[str], tokenizer: Tokenizer, limit: int, longest: int, seed: int
) -> tuple[list[list[int]], int, int]:
    """Passages of files, as token ids; and how many characters were read, of how many."""
    from attncli.explain.faithful import LEAST_TOKENS
    from attncli.render.console import print_note
    from attncli.text.files import read_documents
    from attncli.text.passages import MOST_READ, draw_passages

    if longest < LEAST_TOKENS:
        raise BadInput(f"The model reads {longest} tokens at once: {LEAST_TOKENS} are needed.", "Use another model.")
    documents = read_documents(files, CorpusConfig.encoding)
    for note in documents.notes:
        print_note(note)
    found = draw_passages(documents, tokenizer, count=limit, shortest=LEAST_TOKENS, longest=longest, seed=seed)
    return found, min(documents.characters, MOST_READ), documents.characters
