"""`attncli tokenize`."""

from __future__ import annotations

import shlex
from pathlib import Path

from attncli.cli.options import Given
from attncli.cli.shared import JSON, ModelChoice
from attncli.cli.texts import required_text, text_or_file
from attncli.config import CorpusConfig, TokenizerKind
from attncli.config.option import argument, option, option_from
from attncli.errors import UsageProblem

_TEXT = "A text, a text file, or - for standard input; with --decode, token ids."
_TRAIN = "Train a tokenizer on this file. May be given several times."


def tokenize(
    *,
    text: tuple[str, ...] = argument((), _TEXT, metavar="TEXT|FILE|-"),
    choice: ModelChoice,
    ids: bool = option(False, "Print only the ids, on one line."),
    decode: bool = option(False, "Decode token ids into text."),
    train: tuple[str, ...] = option((), _TRAIN, metavar="FILE"),
    tokenizer: TokenizerKind = option_from(CorpusConfig, "tokenizer", panel="", rare=False),
    vocab_size: int | None = option_from(CorpusConfig, "vocab_size", panel="", rare=False),
    out: Path | None = option(None, "With --train: the output directory.", "--out", "-o", metavar="DIR"),
    force: bool = option(False, "With --train: replace an existing tokenizer."),
    json: bool = JSON,
    given: Given,
) -> None:
    """Show how text becomes tokens.

    attncli tokenize "unbelievable"
    attncli tokenize --train corpus.txt --vocab-size 2k --out my-tokenizer
    """
    from attncli.cli.bodies.tokenize import decode_ids, show_tokens, train_tokenizer

    if train:
        if text or ids or decode:
            raise UsageProblem("--train only makes a tokenizer.", "Leave out the text, --ids and --decode.")
        given.refuse(("model", "revision"), "--train makes a new tokenizer")
        if out is None:
            raise UsageProblem("--train needs --out DIR, the directory to write.", "Add --out my-tokenizer.")
        config = CorpusConfig(tokenizer=tokenizer, vocab_size=vocab_size)
        train_tokenizer(train, config, out, force=force, json=json)
    elif given.keys() & {"out", "tokenizer", "vocab_size", "force"}:
        raise UsageProblem("--out, --tokenizer, --vocab-size and --force go with --train.", "Add --train FILE.")
    elif ids and (decode or json):
        other = "--decode" if decode else "--json"
        raise UsageProblem(f"--ids prints only ids, so {other} cannot be given.", f"Leave --ids or {other} out.")
    elif decode:
        listed = required_text(" ".join(text) or None, "attncli tokenize --decode 72 101")
        decode_ids(listed, choice, json=json)
    else:
        show_tokens(text_or_file(_only(text), 'attncli tokenize "unbelievable"'), choice, ids=ids, json=json)


def _only(texts: tuple[str, ...]) -> str | None:
    """Returns the only text, or None if there is none. Raises UsageProblem for several texts."""
    if len(texts) > 1:
        quoted = shlex.quote(" ".join(texts))
        raise UsageProblem(
            f"There are {len(texts)} texts, and tokenize shows one.", f"Put a text of several words in quotes: {quoted}"
        )
    return texts[0] if texts else None
