"""Scores the heads of any loaded model, in each of its attentions, on random tokens that are repeated once."""

from __future__ import annotations

from attncli.checkpoint.load import LoadedModel
from attncli.explain.defaults import HEAD_TEXTS, AttentionPart
from attncli.explain.encoder_heads import Frame, heads_by_part
from attncli.explain.heads import HeadScores, head_scores


def scores_by_part(
    loaded: LoadedModel, *, length: int | None = None, sequences: int = HEAD_TEXTS, seed: int = 0
) -> dict[AttentionPart, HeadScores]:
    """Returns the scores of all heads for each attention of the model, as `head_scores` and `heads_by_part` do.

    A decoder alone has the part 'decoder', an encoder alone 'encoder', an encoder-decoder both and 'cross'. Raises
    UsageProblem and BadInput as these functions do.
    """
    if loaded.model.config.kind == "decoder":
        known = min(loaded.tokenizer.vocab_size, loaded.model.config.vocab_size)
        scores = head_scores(loaded.model, loaded.start_of_text, known, length=length, sequences=sequences, seed=seed)
        return {"decoder": scores}
    return dict(heads_by_part(loaded.model, _frame(loaded), length=length, sequences=sequences, seed=seed))


def _frame(loaded: LoadedModel) -> Frame:
    """Returns the tokens around the texts of a model with an encoder, and the ids of its ordinary tokens."""
    tokenizer = loaded.tokenizer
    ordinary = [id_ for id_ in range(tokenizer.vocab_size) if id_ not in tokenizer.special_ids]
    start = tuple(loaded.target()) if loaded.translates else ()
    return Frame(tuple(tokenizer.opening), tuple(tokenizer.closing), start, ordinary)
