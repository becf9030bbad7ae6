"""The formats of text files. To add one, write a module with a `Format` and list it in FORMATS.

A file that no format recognizes is read as plain text. Imports of this package load the formats, no library for them.
"""

from attncli.text.formats import json_lines
from attncli.text.formats.base import Format, OpenFile

FORMATS: tuple[Format, ...] = (json_lines.FORMAT,)  # asked in this order

__all__ = ["FORMATS", "Format", "OpenFile"]
