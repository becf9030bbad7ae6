"""A few passages of a text, drawn by a seed: beginnings of its paragraphs, each ending at a token that is drawn too."""

from __future__ import annotations

import random
import re

from attncli.text.files import Documents
from attncli.text.tokenizer import Tokenizer

MOST_READ = 4_000_000  # characters, from the beginning
_CHARACTERS_PER_TOKEN = 16  # more than of any passage worth reading on for


def draw_passages(
    documents: Documents, tokenizer: Tokenizer, *, count: int, shortest: int, longest: int, seed: int
) -> list[list[int]]:
    """At most `count` passages of `shortest` to `longest` tokens; fewer where there are fewer paragraphs so long.

    Of a text of more than MOST_READ characters its beginning is read. One without paragraphs is taken line by line.
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
