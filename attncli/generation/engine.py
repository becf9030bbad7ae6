"""From a prompt to text that streams.

Owns prefill (read the prompt, fill the cache), decode (one token more), going on past the context, and cutting the text
where a stop string or the end of the document comes. Yields events; prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from attncli.config import SampleConfig
from attncli.errors import BadInput
from attncli.generation.events import Event, Finished, Reason, Reread, Text
from attncli.generation.sampling import next_token, uniforms
from attncli.model.cache import KVCache
from attncli.model.transformer import Transformer
from attncli.text.tokenizer import DecodeStream, Tokenizer


def prefill(model: Transformer, cache: KVCache, ids: Tensor) -> Tensor:
    """Reads ids (B, T) into the cache -> logits for the next token (B, V)."""
    return model.unembed(model.hidden(ids, cache)[:, -1])


def decode(model: Transformer, cache: KVCache, ids: Tensor) -> Tensor:
    """Reads one more token per row, ids (B,) -> logits for the next (B, V)."""
    return prefill(model, cache, ids[:, None])


def generate(model: Transformer, tokenizer: Tokenizer, prompt: Sequence[int], config: SampleConfig) -> Iterator[Event]:
    """Continues a prompt of at least one token, `config.num_samples` times, all samples together.

    Raises BadInput at once for a prompt that is empty or longer than the context.
    """
    if not prompt:
        raise BadInput("The prompt has no tokens.", "Give at least one character, or leave the prompt out.")
    if len(prompt) > model.config.context:
        raise BadInput(
            f"The prompt has {len(prompt)} tokens, and the model reads at most {model.config.context}.",
            "Shorten the prompt.",
        )
    return _generate(model, tokenizer, prompt, config)


def _generate(model: Transformer, tokenizer: Tokenizer, prompt: Sequence[int], config: SampleConfig) -> Iterator[Event]:
    samples = [_Sample(i, tokenizer, config.stop) for i in range(config.num_samples)]
    for step in _steps(model, prompt, config):
        if isinstance(step, Reread):
            yield step
            continue
        for sample, id_ in zip(samples, step, strict=True):
            if not sample.finished:
                yield from sample.take(id_)
        if all(sample.finished for sample in samples):
            return
    for sample in samples:
        if not sample.finished:
            yield from sample.close("length")


@torch.inference_mode()
def _steps(model: Transformer, prompt: Sequence[int], config: SampleConfig) -> Iterator[list[int] | Reread]:
    """The ids of every sample, step by step, with a Reread wherever the context was full."""
    device, context = model.embedding.weight.device, model.config.context
    recent = torch.tensor(prompt, device=device).repeat(config.num_samples, 1)  # as many as a reread may need
    draws = uniforms(config.seed, config.num_samples, config.max_new_tokens).to(device)
    seen = _seen(recent, model.config.vocab_size) if config.repetition_penalty != 1 else None
    cache = model.new_cache()
    logits = prefill(model, cache, recent)
    for step in range(config.max_new_tokens):
        ids = next_token(logits, config, draws[:, step], seen)
        yield ids.tolist()
        if step + 1 == config.max_new_tokens:
            return
        if seen is not None:
            seen.scatter_(1, ids[:, None], True)
        recent = torch.cat((recent, ids[:, None]), 1)[:, -max(context // 2, 1) :]
        if cache.length == context:
            cache.truncate(0)
            yield Reread(recent.shape[1])
            logits = prefill(model, cache, recent)
        else:
            logits = decode(model, cache, ids)


def _seen(ids: Tensor, vocab_size: int) -> Tensor:
    """(B, T) ids -> (B, V), true for the tokens among them."""
    return torch.zeros(len(ids), vocab_size, dtype=torch.bool, device=ids.device).scatter_(1, ids, True)


class _Sample:
    """One sample's ids turned into text, held back where it might be the beginning of a stop string."""

    def __init__(self, index: int, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self.finished = False
        self._index = index
        self._ids: list[int] = []
        self._stream: DecodeStream = tokenizer.stream()
        self._end = tokenizer.end_of_text
        self._stop = stop
        self._held = ""

    def take(self, id_: int) -> Iterator[Event]:
        self._ids.append(id_)
        if id_ == self._end:
            yield from self.close("end")
            return
        self._held += self._stream.push(id_)
        if (at := self._stop_at()) is not None:
            yield from self._finish(self._held[:at], "stop")
            return
        ready = len(self._held) - self._could_begin_stop()
        if ready:
            yield Text(self._index, self._held[:ready])
            self._held = self._held[ready:]

    def close(self, reason: Reason) -> Iterator[Event]:
        """Ends the sample, with whatever was held back."""
        self._held += self._stream.flush()
        at = self._stop_at()
        yield from self._finish(self._held if at is None else self._held[:at], reason if at is None else "stop")

    def _finish(self, rest: str, reason: Reason) -> Iterator[Event]:
        self.finished = True
        if rest:
            yield Text(self._index, rest)
        yield Finished(self._index, reason, tuple(self._ids))

    def _stop_at(self) -> int | None:
        """Where the first stop string begins, in the text held."""
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        return min(found, default=None)

    def _could_begin_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        return max((n for stop in self._stop for n in range(1, len(stop)) if self._held.endswith(stop[:n])), default=0)
