"""Continues or translates a text greedily: appends the most probable token at each step."""

from __future__ import annotations

from collections.abc import Sequence

from attncli.checkpoint.load import LoadedModel
from attncli.config import SampleConfig
from attncli.generation.defaults import longest_translation, settings_for
from attncli.generation.engine import generate
from attncli.generation.events import Finished
from attncli.model.backend import TorchBackend
from attncli.text.tokenizer import Piece


def continued(loaded: LoadedModel, pieces: Sequence[Piece], count: int) -> list[Piece]:
    """Returns the tokens of a text, followed by `count` generated tokens.

    Fewer tokens are generated if the model ends the text or if the context is full. Raises UsageProblem for an encoder
    alone, which continues no text.
    """
    if count == 0:
        return list(pieces)
    loaded.refuse_encoder("continues no text")
    ids = [piece.id for piece in pieces]
    count = min(count, loaded.model.config.context - len(ids))
    if count > 0:
        config = SampleConfig(temperature=0, max_new_tokens=count)
        events = generate(TorchBackend(loaded.model), loaded.tokenizer, [ids], config, loaded.end_ids)
        ids += next(event.ids for event in events if isinstance(event, Finished))
    opened = len(loaded.tokenizer.opening)
    return [*pieces[:opened], *loaded.tokenizer.pieces_of(ids[opened:])]


def translated(loaded: LoadedModel, source: Sequence[Piece]) -> list[Piece]:
    """Returns the tokens of the model's greedy translation of a source, without the start and end tokens."""
    most = longest_translation(len(source), loaded.model.config.context - len(loaded.target()))
    config = settings_for(loaded, SampleConfig(max_new_tokens=most), ())
    sources = [[piece.id for piece in source]]
    prompts = [loaded.target()]
    events = generate(TorchBackend(loaded.model), loaded.tokenizer, prompts, config, loaded.end_ids, sources=sources)
    ids = next(event.ids for event in events if isinstance(event, Finished))
    return loaded.tokenizer.target.pieces_of([id_ for id_ in ids if id_ not in loaded.end_ids])
