"""The fields of POST /v1/completions: those of OpenAI, and the sampling settings that only attncli has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attncli.config.limits import is_whole
from attncli.serve.limits import Limits
from attncli.serve.openai.fields import TextFields, refused_field, require
from attncli.serve.refusal import Refusal

MOST_LOGPROBS = 20
Prompt = str | tuple[int, ...]  # a text, or ids of tokens


@dataclass(frozen=True, kw_only=True)
class CompletionFields(TextFields):
    """The fields of a request."""

    prompt: Any = ""  # a text, a list of texts, ids, or a list of lists of ids
    max_tokens: int = 16
    logprobs: int | None = None  # the number of most probable tokens for each token
    echo: bool = False

    def refuse(self, limits: Limits) -> None:
        """Raises Refusal for values that are not allowed, or not together."""
        super().refuse(limits)
        least, rule = (0, " (0 with echo)") if self.echo else (1, ", or 0 with echo")
        fits = least <= self.max_tokens <= limits.new_tokens
        require(fits, "max_tokens", self.max_tokens, f"a whole number from 1 to {limits.new_tokens:,}{rule}")
        fits = self.logprobs is None or 0 <= self.logprobs <= MOST_LOGPROBS
        require(fits, "logprobs", self.logprobs, f"a whole number from 0 to {MOST_LOGPROBS}")
        prompts = len(self.prompts)
        require(1 <= prompts <= limits.prompts, "prompt", f"{prompts} prompts", f"from 1 to {limits.prompts} prompts")
        texts, most = prompts * self.n, limits.texts_waiting
        if texts > most:
            raise refused_field("n", f"The request asks for {texts:,} texts, and may ask for {most}.", "Ask for fewer.")

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts. Raises Refusal for anything else."""
        given = self.prompt
        if isinstance(given, str):
            return [given]
        if isinstance(given, list) and given:
            if all(map(is_whole, given)):
                return [tuple(given)]
            if all(isinstance(one, str) for one in given):
                return list(given)
            if all(isinstance(one, list) and all(map(is_whole, one)) for one in given):
                return [tuple(one) for one in given]
        raise _no_prompt()


def _no_prompt() -> Refusal:
    return refused_field("prompt", "prompt must be a text, a list of texts, a list of ids, or a list of lists of ids.")
