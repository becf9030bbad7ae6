"""Names heads by the pattern that they follow on repeated random tokens, so that a circuit can be read."""

from __future__ import annotations

from attncli.checkpoint.load import LoadedModel
from attncli.errors import BadInput
from attncli.explain.heads import HeadKind, head_scores

_NAMES: dict[HeadKind, str] = {
    "previous": "previous-token head",
    "duplicate": "duplicate-token head",
    "induction": "induction head",
}
_LEAST = 0.25  # of (score - chance) / (1 - chance)
_TEXTS = 2


def known_heads(loaded: LoadedModel) -> dict[tuple[int, int], str]:
    """Returns the name of each head of a decoder that clearly follows a pattern, with its score: 'induction head .58'.

    The scores are those of `attncli heads`, over two sequences. Heads that follow none are left out.
    """
    known = min(loaded.tokenizer.vocab_size, loaded.model.config.vocab_size)
    try:
        scores = head_scores(loaded.model, loaded.start_of_text, known, sequences=_TEXTS)
    except BadInput:
        return {}
    named = {}
    for layer in range(scores.layers):
        for head in range(scores.heads):
            margins = {kind: scores.margin(kind, layer, head) for kind in _NAMES}
            best = max(margins, key=lambda kind: margins[kind])
            if margins[best] >= _LEAST:
                score = f"{scores.score(best, layer, head):.2f}".removeprefix("0")
                named[layer, head] = f"{_NAMES[best]} {score}"
    return named
