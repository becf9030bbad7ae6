"""Writes the pictures of the page in Chromium, light and dark: python docs/page_pictures.py

Needs selenium, and Debian's packages chromium and chromium-driver.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
TEXT = "The little cat sat on the old mat. The little"
PICTURES = {"docs/page-light.png": "light", "docs/page-dark.png": "dark"}
VIEW = "#cut=edge&column=2"  # the edge from the last token to ' cat'
SIZE = 1280, 860  # pixels


def main() -> None:
    """Writes every picture."""
    sys.path.insert(0, str(ROOT))
    os.environ |= {"ATTNCLI_MODEL": str(ROOT / "checkpoints" / "stories"), "ATTNCLI_MODELS": os.devnull}
    from attncli.cli.main import run
    from tests.support.browser import Browser

    with TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        assert run(["explain", TEXT, "--page", str(page)]) == 0
        browser = Browser()
        try:
            browser.resize(*SIZE)
            for name, theme in PICTURES.items():
                browser.open(page, f"{VIEW}&theme={theme}")
                browser.driver.save_screenshot(str(ROOT / name))
        finally:
            browser.close()


if __name__ == "__main__":
    main()
