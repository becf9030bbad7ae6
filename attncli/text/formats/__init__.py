"""The formats of text files. To add a format, write a module with a `FileFormat` and list it in FORMATS.

A file that no format recognizes is read as plain text. Importing this package imports the formats, but no library that
a format needs.
"""

from attncli.text.formats import json_lines
from attncli.text.formats.base import FileFormat, OpenFile

FORMATS: tuple[FileFormat, ...] = (json_lines.FORMAT,)  # a file is read by the first format that recognizes it

__all__ = ["FORMATS", "FileFormat", "OpenFile"]
