"""The first page: what `attncli` and `attncli --help` show."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class FirstPage(TyperGroup):
    """The group of commands, listed in the order a newcomer needs them, options last."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Prints the page."""
        from attncli.render.console import output, show
        from attncli.render.help import first_page

        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            sections.setdefault(command.rich_help_panel, []).append((name, command.get_short_help_str(200)))
        options = [param.get_help_record(ctx) for param in self.get_params(ctx)]
        sections["Options"] = [(record[0].split("  ")[0], record[1]) for record in options if record is not None]
        show(output(), first_page(self.help or "", sections))
