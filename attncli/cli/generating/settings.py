"""Parses a setting that a user types in `generate -i`: 'top-k 40' or '--temperature=0.7'.

The settings are the fields of SampleConfig that are options. Parsing needs a tokenizer, but no model and no torch.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from attncli.config import SampleConfig
from attncli.config.option import Option, options_of
from attncli.errors import UsageProblem
from attncli.generation.bias import with_token_ids
from attncli.text.tokenizer import Tokenizer

# `generate -i` generates one text at a time, so num_samples is not a setting.
SETTINGS = {name: option for name, option in options_of(SampleConfig).items() if name != "num_samples"}
_ALL = "/set alone lists all settings."
_NAME = re.compile(r"(-{0,2}[a-z](?:[a-z_-]*[a-z])?)(?:\s*[=:]\s*|\s+|$)(.*)", re.IGNORECASE | re.DOTALL)


def changed(config: SampleConfig, text: str, tokenizer: Tokenizer) -> tuple[str, SampleConfig]:
    """Returns the changed field and the new config: 'top-k 40' -> ('top_k', the config with top_k=40).

    Raises UsageProblem for an unknown setting or an invalid value.
    """
    found = _NAME.fullmatch(text.strip())
    if found is None:
        raise UsageProblem(f"{text.strip()!r} is not a setting and its value.", "For example: /set temperature 0.7")
    name, value = setting(found[1]), found[2]
    if not value:
        raise UsageProblem(f"{spelled(name)} needs a value.", _such_as(name))
    try:
        return name, with_token_ids(replace(config, **{name: _value(name, value)}), tokenizer)
    except UsageProblem as problem:
        problem.spell(spelled)
        raise


def setting(word: str) -> str:
    """Returns the field for a typed name: '--Top-K', 'topk', 'k' -> 'top_k'. A unique prefix is enough.

    Raises UsageProblem for an unknown or ambiguous name.
    """
    plain = _plain(word)
    for name, option in SETTINGS.items():
        if plain and plain in (option.letter, *map(_plain, option.names)):
            return name
    found = [name for name in SETTINGS if _plain(name).startswith(plain)]
    exact = [name for name in found if _plain(name) == plain]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if found:
        raise UsageProblem(f"{word!r} could be {' or '.join(map(spelled, found))}.", _ALL)
    near = nearest(word)
    raise UsageProblem(f"There is no setting {word!r}.", _ALL if near is None else f"Did you mean {near}? {_ALL}")


def nearest(word: str) -> str | None:
    """Returns the setting with the most similar name: 'temprature' -> 'temperature'. None if no name is similar."""
    names = {_plain(name): spelled(name) for name in SETTINGS}
    near = get_close_matches(_plain(word), names, 1)
    return names[near[0]] if near else None


def spelled(name: str) -> str:
    """Returns the name of the setting for a field: 'top_k' -> 'top-k'."""
    return name.replace("_", "-")


def _plain(word: str) -> str:
    return re.sub("[-_]", "", word.lower())


def _such_as(name: str) -> str:
    return f"For example: /set {spelled(name)} {SETTINGS[name].example or getattr(SampleConfig(), name)}"


def _value(name: str, text: str) -> Any:
    """Parses the value of a setting. 'default' resets the setting; 'off' and 'none' turn it off if that is possible."""
    option, default = SETTINGS[name], getattr(SampleConfig(), name)
    if text.lower() == "default":
        return default
    if text.lower() in ("off", "none") and option.off is not None:
        return option.off
    if isinstance(default, tuple):
        return tuple(_parsed(name, option, str, one) for one in _texts(name, text))
    return _parsed(name, option, type(default), text)


def _parsed(name: str, option: Option, kind: type, text: str) -> Any:
    try:
        return option.format.parse(text) if option.format else kind(text)
    except ValueError:
        thing = {int: "a whole number", float: "a number"}.get(kind, "a valid value")
        raise UsageProblem(f"{spelled(name)} {text!r} is not {thing}.", _such_as(name)) from None


def _texts(name: str, text: str) -> list[str]:
    """Parses one text or a list of JSON strings: 'END' -> ['END']; '" a", "\\n"' -> [' a', '\\n'].

    A JSON string can contain line ends, and spaces at its beginning and end.
    """
    if not text.startswith('"'):
        return [text]
    try:
        found = json.loads(f"[{text}]")
    except ValueError:
        found = [None]
    if not all(isinstance(part, str) for part in found):
        raise UsageProblem(
            f"{spelled(name)} {text} is not a list of texts in double quotes.", r'For example: "END", "\n\n"'
        )
    return list(found)
