"""`attncli explain`: reads a text, computes the chosen view, and prints it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from attncli.checkpoint.load import LoadedModel
from attncli.cli.bodies.results import write_asked, write_page, write_pictures
from attncli.cli.loading import load
from attncli.cli.shared import ModelSource, PageFile, Pictures
from attncli.explain.first_screen import Explanation
from attncli.explain.reading import Reading, TextPair
from attncli.pages import html_page
from attncli.render.console import output, print_json, print_note, show
from attncli.render.export import sources_csv, write_weights
from attncli.render.first_screen import continuation_note
from attncli.render.plain import explanation_sentences, print_sentences
from attncli.text.tokenizer import Piece
from attncli.views import View, ViewOptions, reading_of, refuse_generate, request, text_of


def run(
    text: str,
    source: ModelSource,
    view: View,
    token: str | None,
    options: ViewOptions,
    generate: int,
    json: bool,
    page: PageFile,
    pictures: Pictures,
) -> None:
    """Continues a text by `generate` tokens, prints a view of it, and writes the files that the options name."""
    loaded = load(source)
    refuse_generate(loaded, generate)
    read, prompt_tokens = text_of(loaded, text, options), 0
    if generate and not isinstance(read, TextPair):
        prompt_tokens = len(read)
        read = _continued(loaded, list(read), generate)
    # The screen of --compare-weights does not show the cuts, so they are not computed.
    options = replace(options, check=options.check and (json or not options.compare_weights))
    write_page(page, lambda: html_page(loaded, read, token, options))  # before the screen, whose pipe may be closed
    functions, reading = view.load(options), reading_of(loaded, read, view, options)
    finding = functions.find(request(reading, loaded.tokenizer, token, options))
    if json:
        generated = {"prompt_tokens": prompt_tokens} if generate else {}
        print_json(functions.document(finding, loaded.name) | generated)
    elif options.plain:
        print_sentences(explanation_sentences(finding, loaded.name))
    else:
        console = output()
        show(console, functions.screen(finding, loaded.name, console))
    _write_tables(finding, reading, options.csv, options.npz)
    write_pictures(lambda console: functions.screen(finding, loaded.name, console), "attncli explain", pictures)


def _continued(loaded: LoadedModel, pieces: list[Piece], generate: int) -> list[Piece]:
    """Returns the tokens of a text followed by its continuation, and prints a note about the continuation."""
    from attncli.generation.continuation import continued

    whole = continued(loaded, pieces, generate)
    print_note(continuation_note(len(pieces), len(whole), loaded.model.config.context))
    return whole


def _write_tables(finding: Explanation, reading: Reading, csv: Path | None, npz: Path | None) -> None:
    """Writes the table of sources to the file of --csv, and the attention weights to the file of --npz.

    If both attentions of a decoder are shown, writes the weights of cross-attention, because its map is shown.
    """
    write_asked(csv, "--csv", lambda file: file.write(sources_csv(finding).encode()))
    if npz is not None:
        from attncli.explain.every_weight import every_weight

        weights = every_weight(replace(reading, parts=reading.parts[:1]))
        write_asked(npz, "--npz", lambda file: write_weights(weights, file))
