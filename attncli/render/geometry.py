"""The screens of `attncli neighbors` and `attncli analogy`: the nearest tokens, compared with chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.render.escape import fit, fold, label_text, one_line, token_label
from attncli.render.numbers import bar, plural
from attncli.render.palette import BAR
from attncli.text.tokenizer import Piece

if TYPE_CHECKING:
    from attncli.explain.chance import Chance
    from attncli.explain.geometry import Analogy, Expected, Neighbor, Neighbors

_LABEL = 18  # cells of a token's label
_WIDEST_BAR = 30


def neighbors_screen(finding: Neighbors, model: str, console: Console) -> RenderableType:
    """Returns the screen of `attncli neighbors`, for the width of a console."""
    width = console.width
    if finding.text is None:
        measure = "cosine of token embeddings"
    else:
        others = "those of the other tokens" if finding.among == "text" else "token embeddings"
        of = "encoder's " if finding.of_encoder else ""
        after = f"the {of}residual stream after {plural(finding.layer or 0, 'layer')}"
        at = "the embedding" if finding.layer == 0 else after
        measure = f"cosine of {at} with {others}"
    where = "" if finding.at is None else f" [{finding.at}] of {len(finding.text or ())} tokens"
    title = f"{one_line(model)} · nearest to {spelling(finding.word)}{where}"
    own = finding.word[-1].id if finding.text is not None and finding.among == "vocabulary" else None
    return Group(
        Text(fold(title, width), "bold"),
        Text(fold(measure, width), "dim"),
        *_token_notes([finding.word] if finding.text is None else [], width),
        *([Text(_LAST, "dim")] if finding.text is not None and len(finding.word) > 1 else []),
        Text(),
        _table(finding.nearest, finding.chance, own, width),
        Text(),
        *_beside_chance(finding.nearest, finding.chance),
    )


_LAST = "The word has several tokens. The last one is used, because it attends to the others."


def analogy_screen(finding: Analogy, model: str, console: Console) -> RenderableType:
    """Returns the screen of `attncli analogy`, for the width of a console."""
    width = console.width
    a, b, c = map(spelling, finding.words)
    return Group(
        Text(fold(f"{one_line(model)} · {a} : {b} = {c} : ?", width), "bold"),
        Text(fold(f"nearest to {b} - {a} + {c}, cosine of token embeddings, the three left out", width), "dim"),
        *_token_notes([*finding.words, *([finding.expected.word] if finding.expected is not None else [])], width),
        Text(),
        _table(finding.nearest, finding.chance, None, width),
        Text(),
        *([] if finding.expected is None else [_expected(finding.expected, c, finding.chance.compared)]),
        *_beside_chance(finding.nearest, finding.chance),
    )


def spelling(word: Iterable[Piece]) -> str:
    """Returns a word with its spaces visible: '␣river'."""
    return label_text("".join(piece.completed for piece in word))


def _token_notes(words: Sequence[Sequence[Piece]], width: int) -> list[Text]:
    """Returns one line for each word of several tokens."""
    lines = []
    for word in dict.fromkeys(tuple(word) for word in words):
        if len(word) > 1:
            end = ": the mean of their embeddings is used"
            start = f"{spelling(word)} is {len(word)} tokens, "
            room = max(width - len(end) - len(start), 12)
            lines.append(Text(start + fit("|".join(map(token_label, word)), room) + end, "dim"))
    return lines


def _table(nearest: Sequence[Neighbor], chance: Chance, own: int | None, width: int) -> Table:
    """Returns a row for each neighbor. A row is dim if chance alone would give as large a cosine."""
    table = Table.grid(padding=(0, 1))
    for justify in ("right", "left", "left", "right", "left"):
        table.add_column(justify=justify, no_wrap=True, overflow="ellipsis")
    narrow = width < 60
    label = 12 if narrow else _LABEL
    room = max(4, min(_WIDEST_BAR, width - label - (21 if own is None or narrow else 36)))
    for rank, token in enumerate(nearest, 1):
        note = f"#{token.id}" if token.index is None else f"[{token.index}]"
        if token.id == own:
            note = "itself" if narrow else f"{note} its own token"
        table.add_row(
            Text(str(rank), "dim"),
            Text(fit(label_text(token.text), label)),
            Text(bar(token.cosine, room), BAR),
            Text(f"{token.cosine:.3f}", "" if token.cosine > chance.most else "dim"),
            Text(note, "dim"),
        )
    return table


def _expected(expected: Expected, third: str, of: int) -> Text:
    word = spelling(expected.word)
    return Text(
        f"{word} is {_ordinal(expected.rank)} of {of:,}, cosine {expected.cosine:.3f}; "
        f"by cosine with {third} alone, it is {_ordinal(expected.rank_without)}."
    )


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


def _beside_chance(nearest: Sequence[Neighbor], chance: Chance) -> list[Text]:
    """Returns lines that compare the cosines with their average, and with chance."""
    if not nearest:
        return [Text("There is nothing to compare with.")]
    if chance.compared < 3:
        return [Text(f"Only {plural(chance.compared, 'token')} to compare with: too few to tell near from far.")]
    compared = (
        f"Cosine with all {chance.compared:,} compared: {chance.average:.3f} on average, standard deviation "
        f"{chance.spread:.3f}."
    )
    if chance.most >= 1:
        verdict = "The cosines differ so much that chance alone reaches 1, so no token can be called near."
        return [Text(compared, "dim"), Text(verdict)]
    compared += (
        f" By chance alone, in a normal distribution, the nearest would be at {chance.median:.3f}, "
        f"and above {chance.most:.3f} once in 20."
    )
    near = sum(token.cosine > chance.most for token in nearest)
    if not near:
        verdict = "No nearer than chance: among this many tokens some are as near as these by accident."
    elif near == len(nearest) > 1:
        verdict = "All of these are nearer than chance."
    else:
        verdict = f"The first {near} are nearer than chance." if near > 1 else "The first is nearer than chance."
    return [Text(compared, "dim"), Text(verdict)]


def neighbors_document(finding: Neighbors, model: str) -> dict[str, Any]:
    """Returns the finding as a JSON-ready dictionary, in full precision."""
    return {
        "model": model,
        "word": _word_document(finding.word),
        "text": None if finding.text is None else _word_document(finding.text),
        "index": finding.at,
        "after_layers": finding.layer,
        "among": finding.among,
        **_nearest_document(finding),
    }


def analogy_document(finding: Analogy, model: str) -> dict[str, Any]:
    """Returns the finding as a JSON-ready dictionary, in full precision."""
    expected = finding.expected
    return {
        "model": model,
        **{name: _word_document(word) for name, word in zip("abc", finding.words, strict=True)},
        **_nearest_document(finding),
        "expected": None
        if expected is None
        else {
            "word": _word_document(expected.word),
            "cosine": expected.cosine,
            "rank": expected.rank,
            "rank_by_c_alone": expected.rank_without,
        },
    }


def _word_document(word: Iterable[Piece]) -> list[dict[str, Any]]:
    return [{"id": piece.id, "text": piece.text} for piece in word]


def _nearest_document(finding: Neighbors | Analogy) -> dict[str, Any]:
    chance = finding.chance
    return {
        "nearest": [
            {"id": token.id, "text": token.text, "index": token.index, "cosine": token.cosine}
            for token in finding.nearest
        ],
        "compared": chance.compared,
        "average_cosine": chance.average,
        "chance": {"standard_deviation": chance.spread, "median": chance.median, "once_in_20": chance.most},
    }
