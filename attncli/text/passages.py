"""Draws random passages of a text from a seed. A passage is the beginning of a paragraph, of a random length."""

from __future__ import annotations

import random
import re

from attncli.text.documents import Documents
from attncli.text.tokenizer import Tokenizer

MOST_READ = 4_000_000  # characters at the beginning of the text; the rest is not read
_CHARACTERS_PER_TOKEN = 16  # more than tokens usually have; the rest of a long paragraph is not tokenized


def draw_passages(
    documents: Documents, tokenizer: Tokenizer, *, count: int, shortest: int, longest: int, seed: int
) -> list[list[int]]:
    """Returns up to `count` passages of `shortest` to `longest` tokens each, from different paragraphs.

    Only the first MOST_READ characters are read. In a text without paragraphs, every line is a paragraph.
    """
    pieces = documents.read(0, min(documents.characters, MOST_READ))
    text = "".join(piece + ("\n\n" if ends else "") for piece, ends in pieces)
    chance = random.Random(seed)
    for between in (r"\n\s*\n", r"\n"):
        paragraphs = [paragraph.strip() for paragraph in re.split(between, text)]
        chance.shuffle(paragraphs)
        found: list[list[int]] = []
        for paragraph in paragraphs:
            if len(found) == count:
                break
            ids = tokenizer.encode(paragraph[: longest * _CHARACTERS_PER_TOKEN])
            if len(ids) >= shortest:
                found.append(ids[: chance.randint(shortest, min(len(ids), longest))])
        if len(found) > 1:
            break
    return found
