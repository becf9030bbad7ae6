"""One of the settings of what is drawn, as a user types it between two texts: 'top-k 40', '--temperature=0.7'.

Owns the spellings of names and values. Knows the tokenizer; no model and no torch.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from typing import Any

import typer

from attncli.cli.options import parse_count
from attncli.config import SAMPLING_OFF, SampleConfig
from attncli.errors import UsageProblem
from attncli.generation.bias import parse_bias, token_biases
from attncli.text.tokenizer import Tokenizer

SETTINGS = tuple(field.name for field in fields(SampleConfig) if field.name != "num_samples")
_SHORT = {"t": "temperature", "k": "top_k", "p": "top_p", "n": "max_new_tokens", "s": "seed"}
_NAME = re.compile(r"(-{0,2}[a-z](?:[a-z_-]*[a-z])?)(?:\s*[=:]\s*|\s+|$)(.*)", re.IGNORECASE | re.DOTALL)


def changed(config: SampleConfig, text: str, tokenizer: Tokenizer) -> tuple[str, SampleConfig]:
    """'top-k 40' -> 'top_k', and the config with it. Raises UsageProblem for what is no setting or no value of it."""
    found = _NAME.fullmatch(text.strip())
    if found is None:
        raise UsageProblem(f"{text.strip()!r} is not a setting and its value.", "Such as /set temperature 0.7")
    name, value = setting(found[1]), found[2]
    if not value:
        raise UsageProblem(f"{option(name)} needs a value.", f"Such as /set {option(name)} {_example(name)}")
    if value.lower() == "default":
        return name, replace(config, **{name: getattr(SampleConfig(), name)})
    if value.lower() in ("off", "none") and name in SAMPLING_OFF:
        return name, replace(config, **{name: SAMPLING_OFF[name]})
    return name, replace(config, **{name: _value(name, value, tokenizer)})


def setting(word: str) -> str:
    """'--Top-K', 'topk', 'top_k', 'k' -> 'top_k'; also the beginning of one name alone. Raises UsageProblem."""
    plain = _plain(word)
    if plain in _SHORT:
        return _SHORT[plain]
    found = [name for name in SETTINGS if _plain(name).startswith(plain)]
    exact = [name for name in found if _plain(name) == plain]
    if len(exact or found) == 1:
        return (exact or found)[0]
    raise UsageProblem(
        f"{word!r} could be {' or '.join(map(option, found))}." if found else f"There is no setting {word!r}.",
        "/set alone lists all of them.",
    )


def option(name: str) -> str:
    """'top_k' -> 'top-k'."""
    return name.replace("_", "-")


def _plain(word: str) -> str:
    return re.sub("[-_]", "", word.lower())


def _example(name: str) -> str:
    return {"stop": "END", "logit_bias": '" cat=2.5"'}.get(name, str(getattr(SampleConfig(), name)))


def _value(name: str, text: str, tokenizer: Tokenizer) -> Any:
    if name == "stop":
        return tuple(_texts(name, text))
    if name == "logit_bias":
        return token_biases(tokenizer, map(parse_bias, _texts(name, text)))
    kind = type(getattr(SampleConfig(), name))
    try:
        return parse_count(text) if kind is int and name != "seed" else kind(text)
    except (ValueError, typer.BadParameter):
        thing = "a whole number" if kind is int else "a number"
        raise UsageProblem(
            f"{option(name)} {text!r} is not {thing}.", f"Such as /set {option(name)} {_example(name)}"
        ) from None


def _texts(name: str, text: str) -> list[str]:
    """'END' -> ['END']; in double quotes texts as JSON writes them, for spaces and line ends: '" a", "\\n"'."""
    if not text.startswith('"'):
        return [text]
    try:
        found = json.loads(f"[{text}]")
    except ValueError:
        found = [None]
    if not all(isinstance(part, str) for part in found):
        raise UsageProblem(
            f"{option(name)} {text} is not texts in double quotes, with commas between.", r'Such as "END", "\n\n"'
        )
    return list(found)
