"""Continues or translates a text greedily: appends the most probable token at each step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from attncli.checkpoint.load import LoadedModel
from attncli.config import SampleConfig
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


@torch.inference_mode()
def translated(loaded: LoadedModel, source: Sequence[int]) -> list[int]:
    """Returns the ids of the greedy translation of a source (S,), without the tokens that begin and end it."""
    model, device = loaded.model, loaded.model.device
    encoded, cache = model.read_source(torch.tensor([list(source)], device=device)), model.new_cache()
    ids, read = [loaded.start_of_text], 0
    most = min(model.config.context, 2 * len(source) + 50) - 1  # a model that never ends repeats itself
    while len(ids) < most:
        hidden = model.hidden(torch.tensor([ids[read:]], device=device), cache, source=encoded)
        read, token = len(ids), int(model.unembed(hidden[0, -1])[: loaded.tokenizer.vocab_size].argmax())
        if token in loaded.end_ids:
            break
        ids.append(token)
    return ids[1:]
