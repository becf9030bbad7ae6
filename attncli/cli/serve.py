"""`attncli serve`."""

from __future__ import annotations

from importlib.util import find_spec

from attncli.cli.compiling import begin_compiling
from attncli.cli.shared import ModelSource
from attncli.config.limits import Limit, is_whole
from attncli.config.option import option
from attncli.errors import UsageProblem
from attncli.serve.address import is_loopback

_NEEDS = ("starlette", "uvicorn")
_SHORTEST_TOKEN = 8
_TOKEN = Limit(
    f"at least {_SHORTEST_TOKEN} characters, without spaces",
    lambda token: len(token) >= _SHORTEST_TOKEN and token.isprintable() and " " not in token,
)
_PORTS = Limit("from 0 to 65,535", lambda port: is_whole(port) and 0 <= port < 1 << 16)


def serve(
    *,
    source: ModelSource,
    port: int = option(8000, "The port; 0 is any free one.", limit=_PORTS),
    host: str = option("127.0.0.1", "The address to listen on. Other machines need --token.", metavar="ADDRESS"),
    token: str | None = option(
        None,
        "Answer only requests with this token, which OpenAI's clients call the API key.",
        "--api-key",
        "--token",
        metavar="TEXT",
        limit=_TOKEN,
        secret=True,
    ),
    open: bool = option(False, "Open the page in a browser."),
) -> None:
    """Serve the interactive page with the model behind it, and OpenAI's API for other programs.

    attncli serve --open
    attncli serve -m translate --port 8080
    """
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        raise UsageProblem(
            f"Serving needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.",
            "Install it: pip install 'attncli[serve]'",
        )
    if token is None and not is_loopback(host):
        raise UsageProblem(
            f"--host {host} lets other machines ask, so it needs --token.",
            "Add --token TEXT, or leave --host out to serve this machine alone.",
        )
    begin_compiling(source.device)
    from attncli.cli.bodies.serve import run

    run(source, host=host, port=port, token=token, open=open)
