"""The body of `attncli explain`: reads a text, asks the view, and shows what it finds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attncli.checkpoint.load import LoadedModel
from attncli.cli.loading import load
from attncli.cli.outputs import write_explanation
from attncli.render.console import output, print_json, print_note, show
from attncli.render.first_screen import continuation_note
from attncli.render.plain import explanation_sentences, print_sentences
from attncli.text.tokenizer import Piece
from attncli.views import View, ViewOptions, request

if TYPE_CHECKING:
    from attncli.render.picture import Draw


@dataclass(frozen=True)
class Reading:
    """A model, the tokens of a text that it reads, and how many of them were given where it generated the others."""

    loaded: LoadedModel
    pieces: list[Piece]
    prompt_tokens: int | None


def read_text(text: str, model: str | None, revision: str | None, device: str, generate: int) -> Reading:
    """Loads the model and splits the text into tokens, continued by `generate` tokens, with a note on these."""
    loaded = load(model, device, "float32", revision)
    pieces = loaded.pieces(text)
    if not generate:
        return Reading(loaded, pieces, None)
    from attncli.generation.continuation import continued

    whole = continued(loaded, pieces, generate)
    print_note(continuation_note(len(pieces), len(whole), loaded.model.config.context))
    return Reading(loaded, whole, len(pieces))


def explain_text(reading: Reading, view: View, token: str | None, options: ViewOptions, *, json: bool) -> Draw:
    """Prints what a view finds, and writes its --csv and --npz; returns what draws its screen."""
    loaded, name = reading.loaded, reading.loaded.name
    # The screen of --compare-weights has no column for cuts.
    options = replace(options, check=options.check and (json or not options.compare_weights))
    functions = view.load(options)
    finding = functions.find(request(loaded.model, loaded.tokenizer, reading.pieces, token, options))
    if json:
        generated = {} if reading.prompt_tokens is None else {"prompt_tokens": reading.prompt_tokens}
        print_json(functions.document(finding, name) | generated)
    elif options.plain:
        print_sentences(explanation_sentences(finding, name))
    else:
        console = output()
        show(console, functions.screen(finding, name, console))
    write_explanation(finding, loaded.model, options.csv, options.npz)
    return lambda console: functions.screen(finding, name, console)
