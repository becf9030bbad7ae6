"""Makes the README for a package index: links to files of the repository, and its pictures, become addresses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+)\)")
_PICTURE = re.compile(r'(src|srcset)="(?![a-z]+:)([^"\s]+)"')


def absolute(text: str, source: str) -> str:
    """Returns the page with absolute addresses, where `source` is the address of the repository.

    `[docs](docs/a.md)` becomes `[docs](SOURCE/blob/main/docs/a.md)`, and `src="docs/a.svg"` becomes
    `src="SOURCE/raw/main/docs/a.svg"`. Addresses that have a scheme, and links into the page, stay.
    """
    text = _LINK.sub(lambda link: f"]({source}/blob/main/{link[1]})", text)
    return _PICTURE.sub(lambda picture: f'{picture[1]}="{source}/raw/main/{picture[2]}"', text)


class ReadmeHook(MetadataHookInterface):
    """Sets `readme` to README.md with absolute addresses, made from the source address in project.urls."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Adds the page to the metadata."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, metadata["urls"]["Source"])}
