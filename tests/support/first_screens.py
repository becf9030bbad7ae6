"""The first screen of an explanation as text."""

from attncli.render.first_screen import explanation_screen
from tests.support.screens import screen


def explained(found, width, model="stories"):
    console = screen(width)
    console.print(explanation_screen(found, model, console))
    return console.file.getvalue()
