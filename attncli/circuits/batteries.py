"""Batteries: pairs of prompts for tasks that small models learn, to look for the circuit of each task.

A battery is a file of pairs in `batteries/`, or is drawn from a seed for the vocabulary of a model. A pair whose two
prompts have different numbers of tokens in a model, or whose answers are not single tokens, is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from attncli.checkpoint.load import LoadedModel
from attncli.circuits.defaults import TASKS, MeasureKind
from attncli.circuits.measure import Answer
from attncli.circuits.network import Network
from attncli.circuits.pairs import PromptPair, paired
from attncli.circuits.patching import Ends, ends_of
from attncli.circuits.search import PreparedPair
from attncli.config import shown_value
from attncli.errors import AttnError, BadInput
from attncli.explain.heads import fitted
from attncli.explain.next_token import NextToken, name_of
from attncli.text.tokenizer import Piece, Tokenizer

_FOLDER = Path(__file__).with_name("batteries")
_REPEATED = 8  # random words of an induction prompt, of which the first ones are repeated
_AGAIN = 5
_LEAST_LETTERS = 3


@dataclass(frozen=True)
class PairLine:
    """A line of a file of pairs. The tokens of the answer may be left out."""

    clean: str
    corrupt: str
    target: str | None = None
    against: str | None = None


@dataclass(frozen=True)
class Prepared:
    """The pairs of a battery or of a file that a model can be measured on."""

    pairs: tuple[PreparedPair, ...]
    left_out: int  # pairs that do not align in this model, or whose answers are not single tokens


def pairs_of_lines(lines: Sequence[str], file: str) -> list[PairLine]:
    """Returns the pairs of JSON Lines with the keys clean, corrupt, and optionally target and against.

    Raises BadInput for a line that is not such a pair.
    """
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            read = json.loads(line)
            values = {key: read[key] for key in ("clean", "corrupt")} | {
                key: read.get(key) for key in ("target", "against")
            }
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            values = {}
        texts = [value for value in values.values() if value is not None]
        if not values or not all(isinstance(text, str) for text in texts) or None in list(values.values())[:2]:
            raise BadInput(
                f"Line {number} of {file} is not a pair of prompts.",
                'Each line is {"clean": TEXT, "corrupt": TEXT, "target": TOKEN, "against": TOKEN}.',
            )
        if unknown := sorted(set(read) - {one.name for one in fields(PairLine)}):
            raise BadInput(
                f"Line {number} of {file} has an unknown field: {shown_value(unknown[0])}.",
                "The fields are clean, corrupt, target and against.",
            )
        found.append(PairLine(**values))
    if not found:
        raise BadInput(f"{file} contains no pairs.", "Give a file with one pair on each line.")
    return found


def prepared_texts(
    loaded: LoadedModel, network: Network, texts: Sequence[PairLine], kind: MeasureKind, *, lenient: bool = False
) -> Prepared:
    """Runs pairs of texts. If `lenient`, pairs that cannot be measured are left out, otherwise they raise an error."""
    found, left_out = list[PreparedPair](), 0
    for text in texts:
        try:
            pair = paired(loaded.pieces(text.clean), loaded.pieces(text.corrupt), loaded.model.config.context)
            found.append(_run(network, loaded.tokenizer, pair, text.target, text.against, kind))
        except AttnError:
            if not lenient:
                raise
            left_out += 1
    return Prepared(tuple(found), left_out)


def _run(
    network: Network, tokenizer: Tokenizer, pair: PromptPair, target: str | None, against: str | None, kind: MeasureKind
) -> PreparedPair:
    with torch.inference_mode():
        runs = [network.record(_ids(network, pieces)) for pieces in (pair.clean, pair.corrupt)]
        ends = ends_of((runs[0].logits, runs[1].logits), tokenizer, target, against, kind)
    return PreparedPair(pair, runs[0], runs[1], ends)


def _ids(network: Network, pieces: Sequence[Piece]) -> torch.Tensor:
    return torch.tensor([piece.id for piece in pieces], device=network.model.device)


def battery(
    loaded: LoadedModel, network: Network, task: str, count: int, seed: int, kind: MeasureKind = "logit-difference"
) -> Prepared:
    """Returns the first `count` pairs of a task that this model can be measured on.

    Raises BadInput if no pair of the task aligns in the vocabulary of the model.
    """
    assert task in TASKS
    if task == "induction":
        generator = torch.Generator().manual_seed(seed)
        pairs = _induction_pairs(loaded, network, generator)
        return Prepared(tuple(_measured(network, loaded.tokenizer, *next(pairs), kind) for _ in range(count)), 0)
    lines = (_FOLDER / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
    prepared = prepared_texts(loaded, network, pairs_of_lines(lines, task), kind, lenient=True)
    if not prepared.pairs:
        raise BadInput(
            f"No pair of the task {task} aligns in the vocabulary of {loaded.name}.", "Give pairs of your own."
        )
    return Prepared(prepared.pairs[:count], prepared.left_out)


def _induction_pairs(
    loaded: LoadedModel, network: Network, generator: torch.Generator
) -> Iterator[tuple[PromptPair, int, int]]:
    """Yields prompts of random words whose beginning is repeated, with the ids of both answers.

    The clean prompt is 'a b c d D E X G a b c d D', which continues with E. In the corrupt prompt, D and X are
    exchanged in the first part: 'a b c d X E D G a b c d D' continues with G. So the prompts differ in which word is
    before which, and in nothing else.
    """
    tokenizer, words = loaded.tokenizer, _words(loaded.tokenizer)
    if fitted(network.config, tokenizer.vocab_size) < _REPEATED or len(words) < _REPEATED:
        raise BadInput(f"{loaded.name} has too short a context or too few words.", "Use another task.")
    last, other = _AGAIN - 1, _REPEATED - 2
    while True:
        drawn = [words[at] for at in torch.randperm(len(words), generator=generator)[:_REPEATED].tolist()]
        swapped = list(drawn)
        swapped[last], swapped[other] = drawn[other], drawn[last]
        clean, corrupt = (_pieces(loaded, [*first, *drawn[:_AGAIN]]) for first in (drawn, swapped))
        yield paired(clean, corrupt, network.config.context), drawn[last + 1], drawn[other + 1]


def _words(tokenizer: Tokenizer) -> list[int]:
    """Returns the tokens that are a space and a word; if there are few, all tokens that are not special."""
    ordinary = [id_ for id_ in range(tokenizer.vocab_size) if id_ not in tokenizer.special_ids]
    names = {id_: tokenizer.name(id_) for id_ in ordinary}
    words = [
        id_ for id_, name in names.items() if name[:1] == " " and name[1:].isalpha() and len(name) > _LEAST_LETTERS
    ]
    return words if len(words) > 4 * _REPEATED else ordinary


def _pieces(loaded: LoadedModel, ids: Sequence[int]) -> list[Piece]:
    """Returns random tokens as pieces, after the token that starts a text."""
    start, tokenizer = loaded.start_of_text, loaded.tokenizer
    named = [(id_, tokenizer.name(id_)) for id_ in ids]
    first = Piece(start, tokenizer.name(start).strip(), 0)
    return [first, *(Piece(id_, name, max(len(name.encode()), 1)) for id_, name in named)]


def _measured(
    network: Network, tokenizer: Tokenizer, pair: PromptPair, target: int, against: int, kind: MeasureKind
) -> PreparedPair:
    with torch.inference_mode():
        runs = [network.record(_ids(network, pieces)) for pieces in (pair.clean, pair.corrupt)]
    answer = Answer(target, against, kind)
    measured = [float(answer.of(run.logits[None])) for run in runs]
    tokens = [
        NextToken(id_, name_of(tokenizer, id_), float(run.logits.softmax(-1)[id_]))
        for id_, run in zip((target, against), runs, strict=True)
    ]
    return PreparedPair(pair, runs[0], runs[1], Ends(measured[0], measured[1], tokens[0], tokens[1], kind))
