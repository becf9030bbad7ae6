"""Puts the page together: one HTML file with its styles, script and data, and a policy that allows nothing else.

The sources are in the folder `web`: `page.html`, `page.css`, the interface texts in `texts`, and JavaScript modules.
The modules become one script, ordered by their imports: each module becomes a function that is called once and returns
the exported names, and an import becomes a destructuring of this result. The script is stored compressed, and
`boot.js` adds it to the page.

The content security policy contains the hashes of the style and of both scripts, so a browser runs nothing else, and it
allows no request. The live page may send requests to its own server.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from functools import cache
from html import escape
from pathlib import Path

from attncli.render.escape import one_line

_WEB = Path(__file__).parent / "web"
_MAIN = "main"
_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./([\w-]+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function|const|class) (\w+))", re.MULTILINE)
_COMMENT = re.compile(
    r"^[ \t]*(?://.*|/\*(?:(?!\*/)[\s\S])*\*/[ \t]*)\n", re.MULTILINE
)  # lines that are only a comment
_REMARK = re.compile(r"""[ \t]+// [^"'`\n]*$""", re.MULTILINE)  # behind code; what has quotes may be part of a string
_TYPE = re.compile(r"/\*\* (?:(?!\*/).)*\*/ ?")  # the JSDoc type of a parameter or of an expression
_INDENTATION = re.compile(r"^ +", re.MULTILINE)


def page_file(data: bytes, title: str) -> str:
    """Returns the HTML file that shows a payload. `title` is shown until the payload is decoded."""
    return _assembled(title, base64.b64encode(data).decode(), connect="")


def live_page(title: str = "attncli") -> str:
    """Returns the HTML page of the server, which gets its payloads by requests to the server."""
    return _assembled(title, "", connect="; connect-src 'self'")


def policy(connect: str = "") -> str:
    """Returns the content security policy of the page."""
    scripts = f"'{_hash(_source('boot.js'))}' '{_hash(_script())}'"
    return (
        f"default-src 'none'; script-src {scripts}; style-src '{_hash(_source('page.css'))}'; img-src data: blob:; "
        f"base-uri 'none'; form-action 'none'{connect}"
    )


def _assembled(title: str, data: str, connect: str) -> str:
    parts = {
        "policy": policy(connect),
        "title": escape(one_line(title)),
        "style": _source("page.css"),
        "data": data,
        "script": base64.b64encode(compressed_script()).decode(),
        "boot": _source("boot.js"),
    }
    return re.sub(r"\{(policy|title|style|data|script|boot)\}", lambda found: parts[found[1]], _source("page.html"))


def compressed_script() -> bytes:
    """Returns the script as a zlib stream."""
    return zlib.compress(_script().encode(), 9)


@cache
def _source(name: str) -> str:
    return (_WEB / name).read_text(encoding="utf-8")


@cache
def _script() -> str:
    """Returns the script: the interface texts, then all modules, each after the modules that it imports."""
    texts = {
        file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted((_WEB / "texts").glob("*.json"))
    }
    listed = json.dumps(texts, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    ordered: dict[str, str] = {}
    _add_module(_MAIN, ordered, ())
    return f"\nwindow.TEXTS = {listed};\n{''.join(ordered.values())}"


def texts_of(file: Path) -> dict[str, str]:
    """Returns the interface texts of one language, by key."""
    texts: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return texts


def _add_module(name: str, ordered: dict[str, str], importing: tuple[str, ...]) -> None:
    """Adds a module after the modules that it imports. Raises ValueError for modules that import each other."""
    if name in importing:
        raise ValueError(f"{' -> '.join((*importing, name))}: modules import each other")
    if name in ordered:
        return
    code = _source(f"{name}.js")
    for _, imported in _IMPORT.findall(code):
        _add_module(imported, ordered, (*importing, name))
    exported = ", ".join(found for _, found in _EXPORT.findall(code))
    code = _EXPORT.sub(r"\1", _IMPORT.sub(r"const \1 = module_\2;", code))
    for omitted in (_COMMENT, _REMARK, _TYPE, _INDENTATION):
        code = omitted.sub("", code)
    ordered[name] = f"const module_{name} = (() => {{\n{code}return {{ {exported} }};\n}})();\n"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
