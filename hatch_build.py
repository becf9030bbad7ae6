"""The README as a package index shows it: a link to a file of the repository becomes an address."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_RELATIVE = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+)\)")


def absolute(text: str, address: str) -> str:
    """`[docs](docs/a.md)` -> `[docs](ADDRESS/docs/a.md)`; links that have a scheme, or point into the page, stay."""
    return _RELATIVE.sub(lambda link: f"]({address}/{link[1]})", text)


class ReadmeHook(MetadataHookInterface):
    """Makes `readme` from README.md and the address of the source in project.urls."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Adds the text to the metadata."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": absolute(text, metadata["urls"]["Source"] + "/blob/main"),
        }
