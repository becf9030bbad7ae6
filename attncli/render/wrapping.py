"""Wraps streamed text between words.

A word is buffered until it is complete, because its length decides whether it fits the line. Each wide character is a
word, because scripts with wide characters have no spaces. The terminal cuts a word that is wider than the line.
"""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.text import Text

from attncli.render.escape import visible

_TAB = 8  # cells
_JOINER = "\u200d"  # joins two emoji into one character
Styled = tuple[str, Style | str]


class WordWrap:
    """Writes styled text to one console, wrapped between words."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._column = 0
        self._gap: list[Styled] = []  # spaces and tabs before the word
        self._word: list[Styled] = []  # characters not written yet
        self._after_wide = False  # the last character written is wide: a line may end after it
        self._written: list[Styled] = []  # output of the current call of `write`

    def write(self, text: str, style: Style | str = "", *, complete: bool = False) -> None:
        """Writes escaped text. If `complete` is false, the last word is buffered until the next call."""
        for char in visible(text):
            if char == "\n":
                self._place()
                self._emit("\n", "")
                self._column = 0
            elif char in " \t":
                self._place_word()
                self._gap.append((char, style))
            else:
                if self._word and self._is_border(self._word[-1][0], char):
                    self._place_word()
                self._word.append((char, style))
                if self._width(self._word) >= self._console.width:
                    self._place_word()
        if complete:
            self._place()
        self._print()

    def _is_border(self, before: str, after: str) -> bool:
        wide = cell_len(after) == 2 or (cell_len(before) == 2 and cell_len(after) == 1)
        return wide and before != _JOINER

    def _place(self) -> None:
        self._place_word()
        if self._column + self._width(self._gap) <= self._console.width:
            self._emit_all(self._gap)
        self._gap = []

    def _place_word(self) -> None:
        """Writes the buffered spaces and word. If they do not fit on the line, a line end replaces the spaces."""
        if not self._word:
            return
        breakable = self._gap or self._after_wide or cell_len(self._word[0][0]) == 2
        if breakable and self._column and self._column + self._width(self._gap + self._word) > self._console.width:
            self._emit("\n", "")
            self._column, self._gap = 0, []
        self._emit_all(self._gap + self._word)
        self._after_wide = cell_len(self._word[-1][0]) == 2
        self._gap, self._word = [], []

    def _width(self, parts: list[Styled]) -> int:
        return sum(_TAB if char == "\t" else cell_len(char) for char, _ in parts)

    def _emit_all(self, parts: list[Styled]) -> None:
        for char, style in parts:
            shown = " " * (_TAB - self._column % _TAB) if char == "\t" else char
            cells = cell_len(shown)
            self._column = self._column + cells if self._column + cells <= self._console.width else cells
            self._emit(shown, style)

    def _emit(self, text: str, style: Style | str) -> None:
        if self._written and self._written[-1][1] == style:
            text = self._written.pop()[0] + text
        self._written.append((text, style))

    def _print(self) -> None:
        self._console.print(Text.assemble(*self._written), end="", soft_wrap=True)
        self._written = []
