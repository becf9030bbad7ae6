"""`attncli info`."""

from __future__ import annotations

from typing import Annotated

from attncli.cli.completing import one_of
from attncli.cli.options import JsonOption, ModelArgument, ModelOption, RevisionOption, alternatives, unset
from attncli.errors import UsageProblem
from attncli.model.count import PRESETS

_PRESET = f"Count the parameters of a well-known model instead: {alternatives(PRESETS)}."


# fmt: off
def info(
    model: ModelArgument = None,
    model_option: ModelOption = None,
    revision: RevisionOption = None,
    preset: Annotated[str | None, unset(help=_PRESET, autocompletion=one_of(PRESETS))] = None,
    json: JsonOption = False,
) -> None:
    # fmt: on
    """Show a model's shape, its parameters part by part, its memory, and how it was trained.

    attncli info
    attncli info --preset gpt3
    """
    from attncli.checkpoint.catalog import status_of
    from attncli.checkpoint.directory import CONFIG, RUN, ModelFolder, name_of
    from attncli.checkpoint.families.registry import config_from_json
    from attncli.cli.finding import find
    from attncli.render.console import output, print_json, show
    from attncli.render.models import info_document, info_screen

    if preset is not None:
        if preset not in PRESETS:
            raise UsageProblem(f"There is no preset {preset!r}.", f"There is {', '.join(PRESETS)}.")
        title, config = PRESETS[preset]
        run, where = {}, None
    else:
        path = find(model or model_option, revision, weights=False)
        folder = ModelFolder(path)
        config = config_from_json(folder.json(CONFIG), str(path / CONFIG))
        run = folder.json_if_any(RUN)
        if run:
            run["status"] = status_of(path, run)
        title, where = name_of(path), str(path)
    if json:
        print_json(info_document(title, config, run, where))
    else:
        console = output()
        show(console, info_screen(title, config, run, where, console.width))
