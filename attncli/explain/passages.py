"""Draws passages from files and tokenizes them. Rankings of sources are measured on these passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attncli.checkpoint.load import LoadedModel
from attncli.errors import BadInput
from attncli.explain.defaults import PASSAGE_TOKENS
from attncli.explain.faithful import LEAST_TOKENS
from attncli.text import passages
from attncli.text.files import read_documents


@dataclass(frozen=True)
class Passages:
    """The token ids of passages, and how many characters of the files were read to draw the passages."""

    ids: list[list[int]]
    characters_read: int
    characters: int  # of the files
    notes: tuple[str, ...]  # on the files


def passages_of(files: Sequence[str], loaded: LoadedModel, count: int, seed: int) -> Passages:
    """Draws at most `count` passages of files, each preceded by the tokens that the tokenizer adds before a text.

    Raises BadInput for a model whose context is too short, and for a file that cannot be read.
    """
    opening = loaded.tokenizer.opening
    longest = min(PASSAGE_TOKENS, loaded.model.config.context) - len(opening)
    if longest < LEAST_TOKENS:
        raise BadInput(f"The model reads {longest} tokens at once: {LEAST_TOKENS} are needed.", "Use another model.")
    documents = read_documents(list(files))
    drawn = passages.draw_passages(
        documents, loaded.tokenizer, count=count, shortest=LEAST_TOKENS, longest=longest, seed=seed
    )
    characters_read = min(documents.characters, passages.MOST_READ)
    return Passages([[*opening, *ids] for ids in drawn], characters_read, documents.characters, tuple(documents.notes))
