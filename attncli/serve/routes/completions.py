"""POST /v1/completions: texts that continue prompts, in OpenAI's form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from attncli.generation.token_details import TokenDetails
from attncli.serve.models import ServedModel
from attncli.serve.openai.answers import CompletionAnswer
from attncli.serve.openai.completion_fields import CompletionFields, Prompt
from attncli.serve.openai.fields import read_text_fields
from attncli.serve.openai.generating import begin, respond
from attncli.serve.openai.prompts import ReadPrompt, read_prompt
from attncli.serve.service import Service


def routes(service: Service) -> list[BaseRoute]:
    """Returns the route of completions."""

    async def completions(request: Request) -> Response:
        given = await read_text_fields(request, CompletionFields, service.limits)
        config = given.sampling(max(given.max_tokens, 1))
        read = await _scored(service, request, given)
        details = None if given.logprobs is None else TokenDetails(given.logprobs)
        served, generation = await begin(service, request, given, config, read, details, generates=given.max_tokens > 0)
        loaded = served.loaded
        answer = CompletionAnswer(loaded.name, config.seed, loaded.tokenizer.bytes_of, given.logprobs is not None)
        return await respond(service, request, given, answer, generation)

    return [Route("/v1/completions", completions, methods=["POST"])]


async def _scored(
    service: Service, request: Request, given: CompletionFields
) -> Callable[[ServedModel], Sequence[ReadPrompt]]:
    """Returns a function that returns the prompts, for the model thread.

    Prompts with log-probabilities are read in advance, in a job for each, so that running texts go on between them.
    """
    if not given.echo or given.logprobs is None:
        return lambda served: [read_prompt(served, prompt, given) for prompt in given.prompts]

    def read(prompt: Prompt) -> ReadPrompt:
        return read_prompt(service.models.get(given.model), prompt, given)

    found = [await service.desk.run(request, "prompt", None, partial(read, prompt)) for prompt in given.prompts]
    return lambda served: found
