"""The fields that OpenAI's requests for texts share, and the refusal of fields that this server does not implement.

A field is known or refused: none is ignored. A field that this server does not implement is accepted with the value
that has no effect, because clients send it. A field whose value is null has its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from starlette.requests import Request

from attncli.checkpoint.untrusted_json import parse_object
from attncli.config import SampleConfig, shown_value
from attncli.config.sampling import draw_seed
from attncli.errors import BadCheckpoint, UsageProblem
from attncli.records import checked, types_of
from attncli.serve.fields import refuse_other_content
from attncli.serve.limits import Limits, read_body
from attncli.serve.refusal import Refusal

_WHERE = "docs/serving.md lists the fields."
_MOST_STOPS = 16
_LONGEST_STOP = 1000  # characters
_MOST_BIASES = 300
_SPELLED = {"typical": "typical_p", "max_new_tokens": "max_tokens", "num_samples": "n"}  # fields of SampleConfig

# The values of fields of OpenAI that have no effect. Any other value is refused.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "best_of": (1,), "frequency_penalty": (0, 0.0), "functions": ([],), "metadata": ({},), "modalities": (["text"],),
    "parallel_tool_calls": (True, False), "response_format": ({"type": "text"},), "store": (False,), "suffix": ("",),
    "tool_choice": ("none", "auto"), "tools": ([],), "user": ("",),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TextFields:
    """The fields that all routes share. A setting that is null has OpenAI's default, which `DEFAULTS` lists."""

    DEFAULTS: ClassVar[Mapping[str, Any]] = {"min_p": 0.0}  # where it differs from that of SampleConfig

    model: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    n: int = 1
    seed: int | None = None  # null: drawn, and part of the answer
    stop: tuple[str, ...] = ()
    stream: bool = False
    stream_options: dict[str, bool] | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The settings that the request gives, by their names in SampleConfig."""
        names = {name: _SPELLED.get(name, name) for name in ("temperature", "top_k", "top_p", "min_p", "typical")}
        names |= {name: name for name in ("repetition_penalty", "presence_penalty", "seed")}
        found = {name: value for name, spelled in names.items() if (value := getattr(self, spelled)) is not None}
        if self.n != 1:
            found["num_samples"] = self.n
        return found

    def sampling(self, max_tokens: int) -> SampleConfig:
        """Returns the settings of the texts. Raises Refusal for one that is not allowed."""
        bias = tuple((_id(name), value) for name, value in (self.logit_bias or {}).items())
        seed = draw_seed() if self.seed is None else self.seed
        settings = {**self.DEFAULTS, **self.given, "seed": seed}
        try:
            return SampleConfig(**settings, logit_bias=bias, stop=self.stop, max_new_tokens=max_tokens)
        except UsageProblem as problem:
            raise refusal_of_setting(problem) from None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return (self.stream_options or {}).get("include_usage", False)

    def refuse(self, limits: Limits) -> None:
        """Raises Refusal for values that are not allowed, or not together."""
        require(1 <= self.n <= limits.samples, "n", self.n, f"a whole number from 1 to {limits.samples}")
        fits = len(self.stop) <= _MOST_STOPS and all(0 < len(stop) <= _LONGEST_STOP for stop in self.stop)
        require(fits, "stop", list(self.stop), f"at most {_MOST_STOPS} strings of 1 to {_LONGEST_STOP:,} characters")
        most = len(self.logit_bias or {})
        require(most <= _MOST_BIASES, "logit_bias", f"{most} tokens", f"at most {_MOST_BIASES} tokens")
        if self.stream_options is not None and not self.stream:
            raise refused_field("stream_options", "stream_options needs stream.", "Set stream to true.")
        for name, value in (self.stream_options or {}).items():
            if name != "include_usage" and (name != "include_obfuscation" or value):
                raise refused_field("stream_options", f"stream_options has no field {shown_value(name)} here.")


T = TypeVar("T", bound=TextFields)


async def read_text_fields(request: Request, kind: type[T], limits: Limits) -> T:
    """Returns the fields of a request for texts. Raises Refusal with status 400, which names the field."""
    refuse_other_content(request)
    data = await read_body(request, limits)
    try:
        values = parse_object(data, Path("The request"), unique=True)
    except BadCheckpoint as problem:
        raise Refusal(400, problem.message, _WHERE) from None
    given = _of_kind(kind, values)
    given.refuse(limits)
    return given


def _of_kind(kind: type[T], values: Mapping[str, Any]) -> T:
    known = {field.name for field in fields(kind)}
    found = {name: value for name, value in values.items() if value is not None}
    for name in [name for name in found if name not in known]:
        _refuse_unknown(name, found.pop(name))
    if isinstance(found.get("stop"), str):
        found["stop"] = [found["stop"]]
    types = types_of(kind)
    made = {}
    for name, value in found.items():
        try:
            made[name] = checked(types[name], value, name)
        except BadCheckpoint as problem:
            raise refused_field(name, problem.message, _WHERE) from None
    return kind(**made)


def _refuse_unknown(name: str, value: object) -> None:
    """Raises Refusal for a field that this server does not have, unless its value has no effect."""
    if name not in NEUTRAL:
        raise refused_field(name, f"There is no field {shown_value(name)}.", _WHERE)
    if not any(type(value) is type(neutral) and value == neutral for neutral in NEUTRAL[name]):
        raise refused_field(name, f"This server does not implement {name}.", "Leave it out.")


def _id(name: str) -> int:
    """Returns the id of a token in a logit bias. Raises Refusal for a key that is not a whole number."""
    if not (name.isascii() and name.isdecimal() and len(name) <= 18):
        raise refused_field(
            "logit_bias", f"logit_bias names the token {shown_value(name)}.", "Name tokens by their id."
        )
    return int(name)


def refused_field(name: str, message: str, hint: str = "") -> Refusal:
    """Returns the refusal of a field. A name that is long, or that UTF-8 cannot hold, is not repeated."""
    return Refusal(400, message, hint, param=name if len(name) <= 64 and name.isprintable() else None)


def require(fits: bool, name: str, value: object, rule: str) -> None:
    """Raises Refusal for the value of a field if `fits` is false."""
    if not fits:
        raise refused_field(name, f"{name} is {shown_value(value)}, and must be {rule}.")


def refusal_of_setting(problem: UsageProblem) -> Refusal:
    """Returns the refusal for a setting that SampleConfig does not allow, with the name of the field."""
    named: list[str] = []

    def spelled(name: str) -> str:
        named.append(_SPELLED.get(name, name))
        return named[-1]

    message, hint = problem.texts(spelled)
    return Refusal(400, message, hint, param=named[0] if named else None)
