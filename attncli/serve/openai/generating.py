"""Generates the texts of a request: samples join the batch of their model, and their events become choices."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from attncli.config import SampleConfig
from attncli.errors import UsageProblem
from attncli.generation.batch import RunningSample
from attncli.generation.defaults import settings_for
from attncli.generation.ending import SampleText
from attncli.generation.sampling import generators
from attncli.generation.token_details import TokenDetails
from attncli.serve.models import ServedModel
from attncli.serve.openai.answers import Answer, usage_document
from attncli.serve.openai.choices import Choice, Delta
from attncli.serve.openai.fields import TextFields, refusal_of_setting
from attncli.serve.openai.prompts import ReadPrompt
from attncli.serve.refusal import bug, refusal_of
from attncli.serve.service import Service
from attncli.serve.texts import TextRequest

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Generation:
    """The choices of a request, and the request whose events fill them; no request if nothing is generated."""

    choices: Sequence[Choice]
    request: TextRequest | None

    async def deltas(self) -> AsyncGenerator[list[Delta], None]:
        """Yields what each step adds. Before, yields the prompts that the answer repeats."""
        echoed = [choice.echo(only=self.request is None) for choice in self.choices]
        if some := [delta for delta in echoed if delta.text or delta.tokens or delta.reason]:
            yield some
        if self.request is None:
            return
        async with aclosing(self.request.events()) as steps:
            async for events in steps:
                for event in events:
                    self.choices[event.sample].add(event)
                found = [self.choices[number].take() for number in sorted({event.sample for event in events})]
                if some := [delta for delta in found if delta is not None]:
                    yield some

    async def whole(self) -> list[Delta]:
        """Returns the answer of each sample when all have ended."""
        parts: list[list[Delta]] = [[] for _ in self.choices]
        async with aclosing(self.deltas()) as steps:
            async for deltas in steps:
                for delta in deltas:
                    parts[delta.index].append(delta)
        return [_joined(some) for some in parts]

    def cancel(self) -> None:
        """Frees the places of the samples that have not ended."""
        if self.request is not None:
            self.request.cancelled = True

    @property
    def prompt_tokens(self) -> int:
        """The number of tokens of all prompts, each counted once."""
        return sum(prompt.count for prompt in {id(choice.prompt): choice.prompt for choice in self.choices}.values())

    @property
    def usage(self) -> dict[str, int]:
        """The numbers of tokens, when all samples have ended."""
        return usage_document(self.prompt_tokens, sum(choice.generated for choice in self.choices))


async def begin(
    service: Service,
    request: Request,
    given: TextFields,
    config: SampleConfig,
    read: Callable[[ServedModel], Sequence[ReadPrompt]],
    details: TokenDetails | None,
    *,
    generates: bool = True,
    ends: bool = True,
) -> tuple[ServedModel, Generation]:
    """Reads the prompts of a request in the model thread, and adds its samples to those of the model.

    With `ends`, the end token of a text is one of its tokens. If it `generates` nothing, the prompts alone are the
    answer. Raises Refusal or AttnError.
    """
    asked = TextRequest(service.limits.text_seconds) if generates else None

    def work() -> tuple[ServedModel, Generation]:
        served = service.models.get(given.model)
        prompts = read(served)
        settings = _settings(served, config, given)
        choices = [Choice(at, prompts[at // given.n], ends) for at in range(len(prompts) * given.n)]
        if asked is not None:
            samples = [
                sample
                for prompt in prompts
                for sample in _samples(served, prompt, settings, details, streamed=given.stream)
            ]
            service.texts.add(served, asked, samples)
        return served, Generation(choices, asked)

    try:
        served, generation = await service.desk.run(request, "texts", None, work, brief=True)
        service.metrics.count_tokens(prompt=generation.prompt_tokens)
        return served, generation
    except BaseException:
        if asked is not None:
            asked.cancelled = True  # the work may end after the client has left
        raise


def _settings(served: ServedModel, config: SampleConfig, given: TextFields) -> SampleConfig:
    try:
        return settings_for(served.loaded, config, given.given)
    except UsageProblem as problem:
        raise refusal_of_setting(problem) from None


def _samples(
    served: ServedModel, prompt: ReadPrompt, config: SampleConfig, details: TokenDetails | None, *, streamed: bool
) -> list[RunningSample]:
    """Returns the samples of a prompt: the n-th is the n-th of `attncli generate --num-samples` with the same seed."""
    loaded = served.loaded
    hidden = loaded.tokenizer.special_ids if loaded.translates else frozenset[int]()
    streamed = streamed or details is not None
    made = []
    for stream in generators(config.seed, config.num_samples):
        text = SampleText(0, loaded.tokenizer, config, loaded.end_ids, prompt.ids, hidden, streamed=streamed)
        made.append(RunningSample(list(prompt.ids), text, config, stream, details, prompt.source))
    return made


def _joined(deltas: Sequence[Delta]) -> Delta:
    text, tokens = "".join(delta.text for delta in deltas), tuple(token for delta in deltas for token in delta.tokens)
    return Delta(deltas[0].index, text, tokens, deltas[-1].reason)


async def respond(
    service: Service, request: Request, given: TextFields, answer: Answer, generation: Generation
) -> Response:
    """Returns the answer of a request, as a stream or when all samples have ended."""
    if given.stream:
        return EventStream(generation, _chunks(answer, generation, usage=given.include_usage))
    try:
        deltas = await service.desk.while_here(request, generation.whole())
    finally:
        generation.cancel()
    return JSONResponse(answer.document(deltas, generation.usage))


async def _chunks(answer: Answer, generation: Generation, *, usage: bool) -> AsyncGenerator[Sequence[Document], None]:
    if first := answer.first_chunks(len(generation.choices), usage=usage):
        yield first
    async with aclosing(generation.deltas()) as steps:
        async for deltas in steps:
            yield [answer.chunk(delta, usage=usage) for delta in deltas]
    if usage:
        yield [answer.usage_chunk(generation.usage)]


class EventStream(StreamingResponse):
    """Server-sent events: one JSON document each, then [DONE]. An error after the first one is an event too."""

    def __init__(self, generation: Generation, documents: AsyncGenerator[Sequence[Document], None]) -> None:
        self._generation, self._documents = generation, documents
        super().__init__(_written(documents), media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events until the last one, or until the client leaves. Then nothing more is generated."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._generation.cancel()
            await self._documents.aclose()


async def _written(documents: AsyncGenerator[Sequence[Document], None]) -> AsyncIterator[str]:
    try:
        async for some in documents:
            yield "".join(map(_event, some))
    except Exception as problem:
        yield _event({"error": (refusal_of(problem) or bug()).openai_error})
        if refusal_of(problem) is None:
            raise
        return
    yield "data: [DONE]\n\n"


def _event(document: Document) -> str:
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"
