"""Word alignments: their text form, their error against links made by hand, and the union of two directions.

A link (i, j) says that word i of the source corresponds to word j of the target; both count from 0. A gold alignment
has sure links, which everybody would make, and possible links, for phrases that correspond only as a whole. This module
names the methods that find links with a model (`aligning`) and chooses the default, and knows no more of them. It
imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from attncli.config import shown_value
from attncli.errors import BadInput

Link = tuple[int, int]  # (word of the source, word of the target)
Links = frozenset[Link]
LinkMethod = Literal["combined", "predictions", "attention"]
LINK_METHODS: tuple[LinkMethod, ...] = get_args(LinkMethod)
Shift = Literal["output", "input"]  # cross-attention is read where a target word is predicted, or where it is read
SHIFTS: tuple[Shift, ...] = get_args(Shift)
FEWEST_COMBINED = (
    3  # pairs from which an HMM with the predictions as prior is better than these alone ("Word alignment")
)

_LINK = re.compile(r"(\d{1,9})([-p?])(\d{1,9})", re.ASCII)
_NEIGHBORS = ((-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))


@dataclass(frozen=True)
class GoldLinks:
    """The links of a sentence pair that were made by hand."""

    sure: Links
    possible: Links  # contains the sure links


@dataclass(frozen=True)
class GoldPair:
    """A sentence pair, as words, with its gold links."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    links: GoldLinks


@dataclass(frozen=True)
class AlignmentScore:
    """The agreement of links with gold links, summed over sentence pairs (Och and Ney, 2003, section 2.3)."""

    pairs: int
    links: int  # the links that are scored
    sure: int  # the sure links of the gold alignment
    sure_found: int  # sure links among the scored links
    possible_found: int  # possible or sure links among the scored links

    @property
    def precision(self) -> float:
        """The share of the scored links that are possible or sure; 1 without a link."""
        return self.possible_found / self.links if self.links else 1.0

    @property
    def recall(self) -> float:
        """The share of the sure links that were found; 1 without a sure link."""
        return self.sure_found / self.sure if self.sure else 1.0

    @property
    def error_rate(self) -> float:
        """The alignment error rate: 0 is perfect, 1 the worst. Without possible links, it is 1 - F1."""
        of = self.links + self.sure
        return 1 - (self.sure_found + self.possible_found) / of if of else 0.0


def default_method(pairs: int, attention: bool = False) -> LinkMethod:
    """Returns the method that is used if none is chosen.

    `pairs` is the number of pairs that an HMM would be trained on; from one or two it learns little. `attention` says
    that heads, a layer or a shift were chosen, which only attention has.
    """
    return "attention" if attention else "combined" if pairs >= FEWEST_COMBINED else "predictions"


def parse_links(line: str) -> GoldLinks:
    """Returns the links of a line in the format of Pharaoh: '0-0 1p2' -> sure (0, 0), possible (0, 0) and (1, 2).

    A possible link is written 1p2 or 1?2. Raises BadInput, which names the word that is not a link.
    """
    sure, possible = set(), set()
    for word in line.split():
        found = _LINK.fullmatch(word)
        if found is None:
            raise BadInput(
                f"{shown_value(word)} is not a link.", "Write links such as 0-0 1-2, and possible links as 1p2."
            )
        link = int(found[1]), int(found[3])
        possible.add(link)
        if found[2] == "-":
            sure.add(link)
    return GoldLinks(frozenset(sure), frozenset(possible))


def format_links(links: Iterable[Link], possible: Iterable[Link] = ()) -> str:
    """Returns links in the format of Pharaoh, sorted: {(1, 2), (0, 0)} -> '0-0 1-2'.

    The links of `possible` that are not among `links` are written with a p: '0-0 1p2'.
    """
    sure = frozenset(links)
    return " ".join(f"{i}{'-' if (i, j) in sure else 'p'}{j}" for i, j in sorted(sure.union(possible)))


def read_gold(lines: Iterable[str], name: str) -> list[GoldPair]:
    """Returns the pairs of a gold alignment: each line is a source, a target and links, separated by tabs.

    The words of a sentence are separated by spaces. Empty lines are ignored. `name` is the file in error messages.

    Raises:
        BadInput: for a line without three columns, a word that is not a link, or a link to a word that does not exist,
            with the number of the line; and if there are no lines.
    """
    numbered = ((number, line.rstrip("\r\n")) for number, line in enumerate(lines, 1) if line.strip())
    pairs = [_gold_pair(line, f"{name}, line {number}") for number, line in numbered]
    if not pairs:
        raise BadInput(f"{name} contains no sentence pairs.", "Give lines of a source, a target and links.")
    return pairs


def score_links(found: Sequence[Links], gold: Sequence[GoldLinks]) -> AlignmentScore:
    """Returns the score of the links of each sentence pair against its gold links."""
    both = list(zip(found, gold, strict=True))
    return AlignmentScore(
        pairs=len(both),
        links=sum(len(links) for links, _ in both),
        sure=sum(len(given.sure) for _, given in both),
        sure_found=sum(len(links & given.sure) for links, given in both),
        possible_found=sum(len(links & (given.possible | given.sure)) for links, given in both),
    )


def diagonal(sources: int, targets: int) -> Links:
    """Returns the links of a baseline that uses only the numbers of words: words at the same relative position.

    Each word of the longer sentence has one link, so each word of the shorter one has at least one.
    """
    longer = max(sources, targets) if min(sources, targets) else 0
    return frozenset(
        ((2 * k + 1) * sources // (2 * longer), (2 * k + 1) * targets // (2 * longer)) for k in range(longer)
    )


def intersection(forward: Links, backward: Links) -> Links:
    """Returns the links that both directions have: few links, most of them right."""
    return forward & backward


def grow_diagonal(forward: Links, backward: Links) -> Links:
    """Returns the intersection, grown by links of the union that touch it (grow-diag: Koehn et al., 2003).

    A link is added if it is beside or diagonal to a link, and if one of its words has no link yet. Links are tried in
    order, until no more can be added.
    """
    links = set(forward & backward)
    sources, targets = {i for i, _ in links}, {j for _, j in links}
    waiting, grown = sorted((forward | backward) - links), True
    while grown:
        added = set()
        for i, j in waiting:
            near = any((i + down, j + right) in links for down, right in _NEIGHBORS)
            if near and (i not in sources or j not in targets):
                added.add((i, j))
                links.add((i, j))
                sources.add(i)
                targets.add(j)
        waiting, grown = [link for link in waiting if link not in added], bool(added)
    return frozenset(links)


def grow_diagonal_final(forward: Links, backward: Links) -> Links:
    """Returns the links of `grow_diagonal`, with links added between unlinked words (grow-diag-final-and)."""
    links = set(grow_diagonal(forward, backward))
    sources, targets = {i for i, _ in links}, {j for _, j in links}
    for i, j in (*sorted(forward), *sorted(backward)):
        if i not in sources and j not in targets:
            links.add((i, j))
            sources.add(i)
            targets.add(j)
    return frozenset(links)


def _gold_pair(line: str, place: str) -> GoldPair:
    """Returns the pair of one line. `place` names the file and the line in errors."""
    columns = line.split("\t")
    if len(columns) != 3:
        raise BadInput(
            f"{place} has {len(columns)} column{'s' * (len(columns) != 1)}, not 3.",
            "Separate the source, the target and the links by tabs.",
        )
    source, target = tuple(columns[0].split()), tuple(columns[1].split())
    try:
        links = parse_links(columns[2])
    except BadInput as problem:
        raise BadInput(f"{place}: {problem.message}", problem.hint) from None
    wrong = [(i, j) for i, j in sorted(links.possible) if i >= len(source) or j >= len(target)]
    if wrong:
        raise BadInput(
            f"{place}: the link {wrong[0][0]}-{wrong[0][1]} is out of range:"
            f" {len(source)} words in the source, {len(target)} in the target.",
            "Count from 0 the words between spaces.",
        )
    return GoldPair(source, target, links)
