"""`attncli serve`: opens the socket, loads the model, prints the address and serves until a signal ends it."""

from __future__ import annotations

import threading
import webbrowser

from attncli.cli.loading import load
from attncli.cli.shared import ModelSource
from attncli.render.console import messages, print_note
from attncli.render.escape import one_line
from attncli.render.page.assemble import live_page
from attncli.serve.address import Names
from attncli.serve.application import application
from attncli.serve.guard import Access
from attncli.serve.server import Server, address_of, open_socket
from attncli.serve.service import Service


def run(source: ModelSource, *, host: str, port: int, token: str | None, open: bool) -> None:
    """Serves a model. Raises UsageProblem for an address that is not free, and BadCheckpoint for a damaged model.

    The socket is opened before the model is loaded, so that a port in use is reported at once.
    """
    with open_socket(host, port) as listening:
        loaded = load(source)
        service = Service.of(live_page(), loaded)
        server = Server(application(service, Access(Names.of(host), token)), service)
        address, screen = address_of(listening, host, token), messages()
        shown = address if screen.is_terminal else address_of(listening, host)  # a log keeps no token
        screen.print(f"{one_line(loaded.name)} is at {shown} until Ctrl-C", soft_wrap=True)
        if open:
            threading.Thread(target=_show, args=(address,), daemon=True).start()
        server.run([listening])


def _show(address: str) -> None:
    """Opens the page in a browser. A browser may take seconds to start, and one of the terminal until it is left."""
    if not webbrowser.open(address):
        print_note("no browser was found; open the address yourself")
