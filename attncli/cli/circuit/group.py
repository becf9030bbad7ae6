"""The group `attncli circuit`: its commands, each in a file of this folder."""

from __future__ import annotations

import typer

from attncli.cli.circuit.compose import compose
from attncli.cli.circuit.find import find
from attncli.cli.circuit.patch import patch
from attncli.cli.circuit.tasks import tasks
from attncli.cli.circuit.why import why
from attncli.cli.help import Command, GroupPage, docstring
from attncli.cli.options import for_typer

HELP = """Find which parts of a model together make a prediction, by patching them, and check what was found.

attncli circuit find --task induction
attncli circuit patch "A red bird, big dog. A red" "A big bird, red dog. A red"
"""
group = typer.Typer(cls=GroupPage, rich_markup_mode=None)
for _command in (find, patch, why, compose, tasks):
    group.command(_command.__name__, cls=Command, help=docstring(_command), rich_help_panel="Commands")(
        for_typer(_command)
    )


@group.callback(invoke_without_command=True, help=HELP)
def circuit(context: typer.Context) -> None:
    """Prints the page of the group if no command is given."""
    if context.invoked_subcommand is None:
        context.get_help()
