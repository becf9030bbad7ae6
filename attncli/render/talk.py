"""The screens of generate -i: the commands that can be typed, and the current settings."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Literal

from rich.text import Text

from attncli.config import SampleConfig
from attncli.config.option import options_of
from attncli.render.escape import fold, id_label, one_line, pad

TalkKind = Literal["continue", "answer", "translate"]
_NAME = 20  # cells
_COMMAND = 17


def settings_screen(config: SampleConfig, text_of: Callable[[int], str], width: int) -> Text:
    """Returns every setting with its value, in at most `width` cells. `width` is at least 40."""
    names = [name for name in options_of(SampleConfig) if name != "num_samples"]
    return _table([(_option(name), _value(name, config, text_of)) for name in names], _NAME, width)


def setting_line(name: str, config: SampleConfig, text_of: Callable[[int], str]) -> str:
    """Returns a setting with its value: 'top-k 40'."""
    return f"{_option(name)} {_value(name, config, text_of)}"


def commands_screen(commands: Mapping[str, tuple[str, str]], width: int, task: TalkKind = "continue") -> Text:
    """Returns what can be typed: each command, its argument and what it does. `task` is what happens to a text."""
    lines = [
        ("TEXT", f"{task} it"),
        *([] if task != "continue" else [("an empty line", "continue the text so far, with the next seed")]),
        ("several lines", 'paste them, or end lines with \\, or put them between """ and """'),
        *((f"/{name} {takes}".rstrip(), does) for name, (takes, does) in commands.items()),
    ]
    return _table(lines, _COMMAND, width)


def _table(rows: list[tuple[str, str]], label: int, width: int) -> Text:
    table = Text()
    for name, what in rows:
        lines = fold(what, width - label).split("\n")
        table.append("\n" if table else "").append(pad(name, label), "bold")
        table.append(("\n" + " " * label).join(lines))
    return table


def _option(name: str) -> str:
    return name.replace("_", "-")


def _value(name: str, config: SampleConfig, text_of: Callable[[int], str]) -> str:
    value = getattr(config, name)
    if value == options_of(SampleConfig)[name].off:
        return f"{value} (off)" if value != () else "off"
    if name == "stop":
        return " ".join(one_line(json.dumps(text, ensure_ascii=False)) for text in value)
    if name == "logit_bias":
        return " ".join(f"{id_label(id_, text_of(id_))}={_bias(bias)}" for id_, bias in value)
    return f"{value}"


def _bias(bias: float) -> str:
    return f"{bias:g}" if math.isfinite(bias) else str(bias)
