"""POST /v1/chat/completions: answers in conversations, in OpenAI's form, for models with a chat template.

The template is rendered in a subprocess, as `attncli generate --chat` does, while the model thread goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from attncli.checkpoint.chat import TemplateFailure, read_chat_template
from attncli.errors import BadInput
from attncli.generation.token_details import TokenDetails
from attncli.serve.models import ServedModel
from attncli.serve.openai.chat_answers import ChatAnswer
from attncli.serve.openai.chat_fields import ChatFields
from attncli.serve.openai.fields import read_text_fields, refused_field
from attncli.serve.openai.generating import begin, respond
from attncli.serve.openai.prompts import ReadPrompt
from attncli.serve.refusal import Refusal
from attncli.serve.service import Service


def routes(service: Service) -> list[BaseRoute]:
    """Returns the route of conversations."""

    async def chat(request: Request) -> Response:
        given = await read_text_fields(request, ChatFields, service.limits)
        config = given.sampling(given.most_tokens)
        served = await service.desk.run(request, "texts", None, lambda: _chatting(service, given), brief=True)
        text, hidden = await service.read(lambda: _rendered(served, given))

        def read(again: ServedModel) -> Sequence[ReadPrompt]:
            ids = again.loaded.tokenizer.encode_with_special(text, hidden)
            if not ids:
                raise refused_field("messages", "The conversation has no tokens.")
            again.refuse_tokens(len(ids), "messages")
            return [ReadPrompt(tuple(ids))]

        details = TokenDetails(given.top_logprobs or 0) if given.logprobs else None
        served, generation = await begin(service, request, given, config, read, details, ends=False)
        loaded = served.loaded
        answer = ChatAnswer(loaded.name, config.seed, loaded.tokenizer.bytes_of, given.logprobs)
        return await respond(service, request, given, answer, generation)

    return [Route("/v1/chat/completions", chat, methods=["POST"])]


def _chatting(service: Service, given: ChatFields) -> ServedModel:
    """Returns the model, in the model thread. Raises Refusal for messages with too many characters."""
    served = service.models.get(given.model)
    characters = "".join(message["content"] for message in given.conversation)
    served.refuse_characters(characters, field="messages")
    return served


def _rendered(served: ServedModel, given: ChatFields) -> tuple[str, dict[str, str]]:
    """Returns the rendered conversation. Raises Refusal for a model without a chat template."""
    template = read_chat_template(served.loaded.path)
    if template is None or served.loaded.model.config.kind != "decoder":
        raise refused_field(
            "model",
            f"{served.loaded.name} has no chat template: it continues texts.",
            "Ask /v1/completions, or name a model that was trained on conversations.",
        )
    try:
        return template.rendered(served.loaded.tokenizer, given.conversation)
    except TemplateFailure as problem:
        raise Refusal(400, f"The chat template of the model fails: {problem.why}.", param="messages") from None
    except BadInput as problem:
        raise refused_field("messages", problem.message) from None
