"""Streamed text on a terminal: lines end between words, and all text is shown, for all ways of tokenizing it."""

import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from attncli.generation.events import Text
from attncli.render.generation import GenerationScreen
from attncli.render.wrapping import WordWrap


def terminal(width=20):
    return Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)


def streamed(parts, width=20):
    """Returns the text on the terminal after each part, and at the end."""
    console = terminal(width)
    words = WordWrap(console)
    shown = []
    for part in parts:
        words.write(part)
        shown.append(console.file.getvalue())
    words.write("\n")
    return shown, console.file.getvalue()


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["Once upon", " a time there was", " a girl"], "Once upon a time\nthere was a girl\n"),
        (["Once up", "on a time the", "re was"], "Once upon a time\nthere was\n"),  # tokens that end within a word
        (["twenty cells exactly and"], "twenty cells exactly\nand\n"),
        (["a line\n\n  indented ", "\n"], "a line\n\n  indented \n\n"),
        (["one", " ", "\t", "two"], "one     two\n"),  # a tab ends at a multiple of eight cells
        (["a " + "x" * 45 + " b"], "a\n" + "x" * 45 + " b\n"),  # cut by the terminal
        (["東京東京東京東京東京東京"], "東京東京東京東京東京\n東京\n"),
        (["word 東京, and 東京."], "word 東京, and 東京.\n"),
        (["a" * 18, "e\u0301", "e\u0301"], "a" * 18 + "e\u0301e\u0301\n"),
        (["a" * 18 + " \N{WOMAN}\u200d\N{ROCKET}"], "a" * 18 + "\n\N{WOMAN}\u200d\N{ROCKET}\n"),
        (["mark \x1b[2J"], "mark ␛[2J\n"),
    ],
)
def test_a_line_ends_between_words(parts, expected):
    assert streamed(parts)[1] == expected


TEXTS = st.text(st.sampled_from("ab -\n\t東🎉"), max_size=60)


def solid(text):
    return "".join(text.split())


def first_word(line):
    """Returns the first word of a line with the spaces before it. The terminal cuts spaces wider than a line."""
    return line[: line.index(line.split()[0])] + line.split()[0]


@given(st.lists(TEXTS, max_size=8), st.integers(10, 30))
@example(["\t\t", "a a"], 11)
def test_wrapping_does_not_depend_on_the_tokens(parts, width):
    shown, whole = streamed(parts, width)
    text = "".join(parts)
    assert whole == streamed([text], width)[1] == streamed(list(text), width)[1]
    assert solid(whole) == solid(text)
    assert all(cell_len(line.rstrip()) <= width or cell_len(first_word(line)) > width for line in whole.split("\n"))
    for number, each in enumerate(shown, 1):
        so_far = "".join(parts[:number])
        assert whole.startswith(each)
        assert len(solid(each)) >= len(solid(so_far[: max(map(so_far.rfind, " \n\t")) + 1]))


def test_a_prompt_is_shown_at_once_and_each_text_keeps_its_style():
    console = terminal()
    words = WordWrap(console)
    words.write("It was o", "bold", complete=True)
    assert console.file.getvalue() == "It was o"
    words.write("nce upon")
    words.write(" a time\n")
    assert console.file.getvalue() == "It was once upon a\ntime\n"
    colored = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=9)
    words = WordWrap(colored)
    words.write("red wo", "red")
    words.write("rd\n", "blue")
    assert colored.file.getvalue() == "\x1b[31mred\x1b[0m\x1b[31m wo\x1b[0m\x1b[34mrd\x1b[0m\n"


def test_a_pipe_receives_the_text_unchanged():
    console = Console(file=io.StringIO(), width=10)
    drawn = GenerationScreen(console, ["It was"], 1, live=True)
    text = " once upon a time,\twith \x1b[2J and a wo"
    drawn.update(Text(0, text))
    assert console.file.getvalue() == "It was" + text
    drawn.close()
    assert console.file.getvalue() == "It was" + text + "\n"
