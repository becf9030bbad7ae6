"""A program that renders a chat template: it reads JSON from standard input and writes JSON to standard output.

The program runs in its own process, because a template is foreign code, which can loop forever or exhaust memory.
Jinja's sandbox denies access to unsafe attributes, and changes to the values. The process limits its own memory and CPU
time. The program imports nothing of attncli.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MOST_MEMORY = 1 << 30  # bytes
_MOST_SAID = 200  # the largest number of characters of an error message, which a template can choose


class GenerationBlock(Extension):
    """Parses `{% generation %}` blocks, which mark text that a model wrote. A block renders as its content."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Returns the syntax nodes of the content of a block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render(template: str, values: dict[str, Any], most: int) -> str:
    """Returns the text that a template renders from values.

    Raises TemplateError if the template fails, and ValueError if the text has more than `most` characters.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise, "strftime_now": datetime.now().strftime}
    parts, length = [], 0
    for part in environment.from_string(template).generate(**values):
        parts.append(part)
        length += len(part)
        if length > most:
            raise ValueError(f"it makes more than {most:,} characters")
    return "".join(parts)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,
) -> str:
    pair = None if separators is None else (separators[0], separators[1])
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=pair, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _limit(seconds: int) -> None:
    """Limits the memory and the CPU time of this process, if the system supports limits.

    After `seconds` of CPU time, SIGXCPU ends the process.
    """
    with suppress(ImportError):
        import resource

        limits = (
            (resource.RLIMIT_CORE, 0, 0),
            (resource.RLIMIT_CPU, seconds, seconds + 1),
            (resource.RLIMIT_AS, _MOST_MEMORY, _MOST_MEMORY),
        )
        for kind, soft, hard in limits:
            with suppress(OSError, ValueError):  # a lower limit is set already, or the system has no such limit
                resource.setrlimit(kind, (soft, hard))


def main() -> None:
    """Renders the template from standard input. Writes the result as `text`, or an error as `problem`."""
    asked = json.load(sys.stdin)
    _limit(asked["seconds"])
    try:
        told = {"text": render(asked["template"], asked["values"], asked["most"])}
    except Exception as problem:
        told = {"problem": str(problem)[:_MOST_SAID] or type(problem).__name__}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
