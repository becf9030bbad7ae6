"""`attncli generate`."""

from __future__ import annotations

from typing import Annotated

import typer

from attncli.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    RevisionOption,
    SeedOption,
    draw_seed,
    parse_count,
    text_argument,
    unset,
)
from attncli.config import SampleConfig

_PROMPT = "What to continue; - reads it from standard input. Unset: a new text."
_TEMPERATURE = "Above 1 bolder, below 1 safer; 0 takes the most probable token."
_TOP_P = "Draw from the fewest tokens of this total probability; 1 is off."
_MIN_P = "Drop tokens below this share of the best one's probability; 0 is off."
_PENALTY = "Above 1 makes tokens seen before less likely; 1 is off."


# fmt: off
def generate(
    prompt: Annotated[str | None, typer.Argument(help=_PROMPT, show_default=False)] = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    temperature: Annotated[float, typer.Option("--temperature", "-t", help=_TEMPERATURE)] = SampleConfig.temperature,
    top_k: Annotated[int, typer.Option(help="Draw from the k most probable tokens; 0 is off.")] = SampleConfig.top_k,
    top_p: Annotated[float, typer.Option(help=_TOP_P)] = SampleConfig.top_p,
    min_p: Annotated[float, typer.Option(help=_MIN_P)] = SampleConfig.min_p,
    repetition_penalty: Annotated[float, typer.Option(help=_PENALTY)] = SampleConfig.repetition_penalty,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", parser=parse_count, metavar="N", help="The most tokens to generate.")] = SampleConfig.max_new_tokens,  # noqa: E501
    num_samples: Annotated[int, typer.Option(help="How many texts, generated together.")] = SampleConfig.num_samples,
    stop: Annotated[list[str] | None, unset(help="End where this text would come; may be given several times.")] = None,
    seed: SeedOption = None,
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Show the text as it is made, or at the end.")] = True,  # noqa: E501
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    json: JsonOption = False,
) -> None:
    # fmt: on
    """Continue a prompt, streaming the text.

    attncli generate "Once upon a time" --temperature 0.7
    attncli generate "ROMEO:" -n 100 --num-samples 3 --seed 1
    """
    chosen = draw_seed() if seed is None else seed
    config = SampleConfig(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens, num_samples=num_samples, stop=tuple(stop or ()), seed=chosen,
    )  # fmt: skip
    text = text_argument(prompt) or ""
    from attncli.cli.loading import load
    from attncli.generation.engine import generate as generated
    from attncli.render.console import output, print_json, print_note
    from attncli.render.generation import GenerationScreen

    loaded = load(model, device, dtype, revision)
    start = loaded.prompt(text)
    events = generated(loaded.model, loaded.tokenizer, start, config, loaded.end_ids)
    screen = GenerationScreen(output(), text, num_samples, live=stream and not json)
    for event in events:
        screen.update(event)
    if json:
        print_json(screen.document(loaded.name, config))
    else:
        screen.close()
    if not screen.any_text:
        print_note("the model ended the text at once: try a prompt, or another --seed")
    if seed is None and temperature > 0:
        print_note(f"seed {chosen}")
    if screen.reread:
        print_note(
            f"past the context of {loaded.model.config.context} tokens: went on from the most recent {screen.reread}"
        )
