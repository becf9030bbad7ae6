"""Continues the prompts of `attncli generate`, prints the texts, and with --verify verifies them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attncli.cli import clock
from attncli.cli.generating.session import Session
from attncli.cli.generating.verification import Verification
from attncli.cli.resolving import note_default
from attncli.cli.truncation import refuse_long, truncated
from attncli.errors import BadInput, UsageProblem
from attncli.generation.events import Event, Throughput
from attncli.generation.stopwatch import Stopwatch
from attncli.render.console import print_json, print_note
from attncli.render.generation import GenerationScreen, throughput_document, throughput_line


def continue_prompts(session: Session, prompts: Sequence[str], file: str | None, tell_seed: bool) -> None:
    """Continues the prompts and prints the texts. `file` is the file that contains the prompts, or None.

    With `tell_seed`, prints a note with the seed. Raises BadInput for a prompt that is longer than the context, Inexact
    if the verification fails.
    """
    if session.loaded.translates and prompts == [""]:
        raise UsageProblem(
            f"{session.loaded.name} translates, and there is no text.",
            f'For example: attncli generate "A dog runs." -m {session.loaded.name}',
        )
    ids = [session.format.prompt([(prompt, "")]) for prompt in prompts]
    if session.truncate:
        prompts, ids = truncated(session.backend.config, session.loaded.tokenizer, prompts, ids)
    _refuse_unreadable(session, ids, file)
    session.note_without_colors()
    stopwatch = Stopwatch(clock.started)
    events: Iterable[Event] = session.events(ids)
    verification = None
    if session.display.verify:
        verification = Verification(session.loaded, session.backend, ids, session.sampling)
        events = verification.keep(events)
    screen = session.screen(prompts, session.sampling.num_samples, echo=session.echo)
    for event in events:
        stopwatch.update(event)
        screen.update(event)
        for record in screen.records() if session.display.jsonl else ():
            print_json(record, indent=None)
    _print_texts(session, screen, stopwatch.result(), verification)
    _print_notes(session, screen, tell_seed)
    if verification:
        if not session.display.json:
            verification.show()
        verification.require()
    note_default(session.source.model or session.source.adapter)


def _print_texts(
    session: Session, screen: GenerationScreen, throughput: Throughput, verification: Verification | None
) -> None:
    """Prints the texts as JSON with --json, else the part of the screen that was not streamed.

    With --jsonl, prints no text, because every text was printed as soon as it was complete. With --stats, also prints
    the speed.
    """
    display = session.display
    if display.json:
        document = screen.document(session.loaded.name, session.sampling)
        document |= {"throughput": throughput_document(throughput)} if display.stats else {}
        print_json(document | (verification.document() if verification else {}))
    elif not display.jsonl:
        screen.close()
    if display.stats:
        print_note(throughput_line(throughput, session.backend.description))


def _print_notes(session: Session, screen: GenerationScreen, tell_seed: bool) -> None:
    if advice := session.format.advice:
        print_note(advice)
    elif not screen.any_text and screen.any_stopped:
        print_note("the text began with a stop string, so nothing is left: try another --stop, or another --seed")
    elif not screen.any_text and session.loaded.translates:
        print_note("the model ended the translation at once: try another text, or --temperature 1")
    elif not screen.any_text:
        print_note("the model ended the text at once: try a prompt, or another --seed")
    if tell_seed and session.sampling.draws:
        print_note(f"seed {session.sampling.seed}")
    if screen.reread:
        context = session.backend.config.context
        print_note(f"past the context of {context} tokens: went on from the most recent {screen.reread}")


def _refuse_unreadable(session: Session, ids: Sequence[Sequence[int]], file: str | None) -> None:
    """Raises BadInput for a prompt that is empty or too long; the error names the line of `file`."""
    for line, one in enumerate(ids, 1):
        try:
            refuse_long(session.backend.config, session.loaded.tokenizer, one)
        except BadInput as problem:
            if file is not None:
                problem.message = f"{file}, line {line}: {problem.message}"
            raise
