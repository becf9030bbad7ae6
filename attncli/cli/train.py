"""`attncli train`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from attncli.cli.completing import model_names, one_of
from attncli.cli.help import MORE, Rare
from attncli.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    SeedOption,
    choice,
    count,
    draw_seed,
    parse_seconds,
    unset,
)
from attncli.config import (
    DEFAULT_TRAINING_SECONDS,
    OPTIMIZER_KINDS,
    SIZES,
    TOKENIZER_KINDS,
    TRAIN_DTYPES,
    CorpusConfig,
    TrainConfig,
)
from attncli.errors import UsageProblem

_FORCE = "Replace a model of the same name; an edited README.md stays."
_FILES = "Text files, directories, or - for standard input. One named n times is seen n times as often."
_TIME = f"How long in all, such as 90s, 5m or 1h. Unset: {DEFAULT_TRAINING_SECONDS / 60:.0f}m."
_SIZE = f"{', '.join(SIZES)}, or LAYERSxWIDTH such as 6x384. Unset: by time and machine."
_VAL = "The share at the end of the text that is kept for validation."


_TIME_PANEL, _MODEL_PANEL, _RECIPE_PANEL = "How long (one of these)", "The model", "How it learns"
_TEXT_PANEL, _PLACE_PANEL = "The text", "Where it goes"


# fmt: off
def train(
    context_: typer.Context,
    files: Annotated[list[str] | None, typer.Argument(metavar="FILE", help=_FILES, show_default=False)] = None,
    time: Annotated[float | None, unset("--time", parser=parse_seconds, metavar="TIME", help=_TIME, rich_help_panel=_TIME_PANEL)] = None,  # noqa: E501
    steps: Annotated[int | None, count(help="How many steps.", rich_help_panel=_TIME_PANEL)] = None,
    epochs: Annotated[float | None, unset(help="How many times to see the text.", rich_help_panel=Rare(_TIME_PANEL))] = None,  # noqa: E501
    tokens: Annotated[int | None, count(help="How many tokens to see in all.", rich_help_panel=Rare(_TIME_PANEL))] = None,  # noqa: E501
    size: Annotated[str | None, unset("--size", metavar="SIZE", help=_SIZE, autocompletion=one_of(SIZES), rich_help_panel=_MODEL_PANEL)] = None,  # noqa: E501
    context: Annotated[int | None, count(help="Tokens the model sees at once. Unset: by time and text.", rich_help_panel=_MODEL_PANEL)] = None,  # noqa: E501
    from_: Annotated[str | None, unset("--from", metavar="MODEL", autocompletion=model_names, help="Go on from this model: its shape, weights and tokenizer.", rich_help_panel=_MODEL_PANEL)] = None,  # noqa: E501
    batch_size: Annotated[int | None, count(help="Windows of text in a step. Unset: by device and length.", rich_help_panel=Rare(_RECIPE_PANEL))] = None,  # noqa: E501
    grad_accum: Annotated[int | None, count(help="Take a step in so many parts, to save memory. Unset: by memory.", rich_help_panel=Rare(_RECIPE_PANEL))] = None,  # noqa: E501
    checkpoint_activations: Annotated[bool, unset("--checkpoint-activations", help="Compute them twice, to save memory. Unset: by memory; --keep-activations: never.", rich_help_panel=Rare(_RECIPE_PANEL))] = False,  # noqa: E501
    keep_activations: Annotated[bool, typer.Option("--keep-activations", hidden=True)] = False,
    optimizer: Annotated[str | None, choice(among=OPTIMIZER_KINDS, show_default=False, help="Unset: muon; adamw with --from.", rich_help_panel=Rare(_RECIPE_PANEL))] = None,  # noqa: E501
    lr: Annotated[float | None, unset(help="Peak learning rate of the matrices. Unset: by optimizer and length.", rich_help_panel=Rare(_RECIPE_PANEL))] = None,  # noqa: E501
    adam_lr: Annotated[float | None, unset(help="With muon, that of embeddings and norms.", rich_help_panel=Rare(_RECIPE_PANEL))] = None,  # noqa: E501
    weight_decay: Annotated[float | None, unset(help="Of matrices and embeddings. Unset: by how often the text is seen.", rich_help_panel=Rare(_RECIPE_PANEL))] = None,  # noqa: E501
    dropout: Annotated[float | None, unset(help="Unset: by how often the text is seen.", rich_help_panel=Rare(_RECIPE_PANEL))] = None,  # noqa: E501
    compile: Annotated[bool, unset("--compile", help="Use torch.compile. Unset: by device and time; --no-compile: never.", rich_help_panel=Rare(_RECIPE_PANEL))] = False,  # noqa: E501
    no_compile: Annotated[bool, typer.Option("--no-compile", hidden=True)] = False,
    seed: SeedOption = None,
    device: DeviceOption = TrainConfig.device,
    dtype: DtypeOption = TrainConfig.dtype,
    tokenizer: Annotated[str, choice(among=TOKENIZER_KINDS, help="The kind of tokenizer to make.", rich_help_panel=Rare(_TEXT_PANEL))] = CorpusConfig.tokenizer,  # noqa: E501
    vocab_size: Annotated[int | None, count(help="How many token ids to make. Unset: by the amount of text.", rich_help_panel=Rare(_TEXT_PANEL))] = None,  # noqa: E501
    val_fraction: Annotated[float, typer.Option(help=_VAL, rich_help_panel=Rare(_TEXT_PANEL))] = CorpusConfig.val_fraction,  # noqa: E501
    val_file: Annotated[str | None, unset(metavar="FILE", help="Validate on this text instead.", rich_help_panel=Rare(_TEXT_PANEL))] = None,  # noqa: E501
    encoding: Annotated[str, typer.Option(help="The encoding of the text.", rich_help_panel=Rare(_TEXT_PANEL))] = CorpusConfig.encoding,  # noqa: E501
    save_dtype: Annotated[str, choice(among=TRAIN_DTYPES, help="Of the finished model's weights; bfloat16 takes half the room.", rich_help_panel=Rare(_PLACE_PANEL))] = TrainConfig.save_dtype,  # noqa: E501
    name: Annotated[str | None, unset(help="The model's name in ./checkpoints. Unset: that of the first file.", rich_help_panel=_PLACE_PANEL)] = None,  # noqa: E501
    out: Annotated[Path | None, unset("--out", "-o", metavar="DIR", help="Its directory, instead of a name.", rich_help_panel=_PLACE_PANEL)] = None,  # noqa: E501
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.", rich_help_panel=_PLACE_PANEL)] = False,  # noqa: E501
    force: Annotated[bool, typer.Option("--force", help=_FORCE, rich_help_panel=_PLACE_PANEL)] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be done, and stop.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard events beside the model.", rich_help_panel=MORE)] = False,  # noqa: E501
    watch_heads: Annotated[bool, typer.Option("--watch-heads", help="Score the attention heads at every evaluation: attncli plot --heads.", rich_help_panel=MORE)] = False,  # noqa: E501
    json: JsonOption = False,
) -> None:
    # fmt: on
    """Train a model on your own text.

    attncli train corpus.txt
    attncli train book.txt notes/ --time 3m --name mine
    """
    from attncli.cli.bodies.train import Request, directory_of, run, show_plan

    request = Request(tuple(files or ()), val_file, from_, resume=resume, force=force, watch_heads=watch_heads)
    target = directory_of(request, name, out)
    if resume:
        _refuse_changes(context_)
    if from_ is not None:
        _refuse_given(context_, ("size", "tokenizer", "vocab_size"), "The model of --from brings its own")
    text = CorpusConfig(tokenizer=tokenizer, vocab_size=vocab_size, val_fraction=val_fraction, encoding=encoding)  # type: ignore[arg-type]
    pinned = TrainConfig(
        seconds=time, steps=steps, epochs=epochs, tokens=tokens, size=size, context=context, batch_size=batch_size,
        grad_accum=grad_accum,
        checkpoint_activations=_either(checkpoint_activations, keep_activations, "--keep-activations"),
        compile=_either(compile, no_compile, "--no-compile"),
        optimizer=optimizer, lr=lr,  # type: ignore[arg-type]
        adam_lr=adam_lr, weight_decay=weight_decay, dropout=dropout,
        seed=draw_seed() if seed is None else seed, device=device, dtype=dtype, save_dtype=save_dtype,
    )  # fmt: skip
    if plan:
        show_plan(request, target, text, pinned, json)
    else:
        run(request, target, text, pinned, json, tensorboard)


def _either(yes: bool, no: bool, name: str) -> bool | None:
    """What an option and its opposite, of that name, say together; None when neither was given."""
    if yes and no:
        raise UsageProblem(f"{name} and its opposite exclude one another.", "Give one of them.")
    return yes or (False if no else None)


def _refuse_changes(context: typer.Context) -> None:
    """A resumed run keeps its plan."""
    free = {"files", "val_file", "name", "out", "resume", "device", "tensorboard", "watch_heads", "json"}
    _refuse_given(context, sorted(context.params.keys() - free), "A resumed run keeps its plan")


def _refuse_given(context: typer.Context, options: Iterable[str], why: str) -> None:
    """Refuses the options among these that were given on the command line."""
    for option in options:
        source = context.get_parameter_source(option)
        if source is not None and source.name == "COMMANDLINE":
            shown = "--" + option.strip("_").replace("_", "-")
            raise UsageProblem(f"{why}, so {shown} cannot be given.", f"Leave {shown} out.")
