"""`attncli generate`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from attncli.cli.compiling import begin_compiling
from attncli.cli.help import MORE, Rare
from attncli.cli.options import (
    DeviceOption,
    GenerationDtypeOption,
    JsonOption,
    ModelOption,
    RevisionOption,
    SeedOption,
    draw_seed,
    parse_count,
    prompt_or_file,
    unset,
)
from attncli.config import SampleConfig
from attncli.errors import BadInput, UsageProblem

_PROMPT = "What to continue, or a file with it; - reads standard input. Unset: a new text."
_PROMPTS = (
    "A file with a prompt on each line, continued together; an empty line is a new text. - is standard input. In a "
    ".jsonl file each line is JSON with a prompt, a text or both."
)
_DRAW = "What is drawn, in this order"  # the panel's options stand as generation/sampling.py applies them
_BIAS = "Add a number to the logit of a token, given by its text or as #ID; -inf bans it. May be given several times."
_REPETITION = "Above 1 makes tokens of the prompt and the text so far less likely; 1 is off."
_PRESENCE = "Above 0 makes tokens of the text so far less likely, without the prompt; 0 is off."
_TEMPERATURE = "Above 1 bolder, below 1 safer; 0 takes the most probable token and skips what follows."
_TOP_K = "Draw from the k most probable tokens; 0 is off."
_TOP_P = "Draw from the fewest tokens of this total probability; 1 is off."
_MIN_P = "Drop tokens below this share of the best one's probability; 0 is off."
_TYPICAL = "Draw from tokens about as surprising as expected, of this total probability; 1 is off."
_SEE = "What to see of every token"
_COLOR = "Tint the text by how surprising each token was to the model, in bits."
_LOGPROBS = "The log-probability of each token and the K most probable ones, before penalties and filters."
_TRACE = "What each step above removed before a token was drawn, and what it left."
_SPEED = "How fast it goes; none of these changes the text"
_STATS = "Say on standard error how fast it went."
_CACHE = "Keep the keys and values of what was read, or read all of it again for every token."
_LOOKUP = "Guess ahead where the text repeats itself. Unset: where that gives the same text, as long as it pays."
_JSONL = "Print each text as a line of JSON, as soon as it is complete."
_TRUNCATE = "Keep the end of a prompt longer than the context."
_CHAT = "Send the prompt as a message in the model's chat template; -i keeps the conversation."
_INTERACTIVE = "Ask for text after text; lines may change settings, and /help lists how. A pipe is a script of them."
_VERIFY = "Make the same again alone, in a batch, without the cache and in other ways, and compare."


# fmt: off
def generate(
    prompt: Annotated[str | None, typer.Argument(help=_PROMPT, show_default=False)] = None,
    prompts: Annotated[str | None, unset("--prompts", metavar="FILE", help=_PROMPTS, rich_help_panel=MORE)] = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    truncate: Annotated[bool, typer.Option("--truncate", help=_TRUNCATE, rich_help_panel=MORE)] = False,
    logit_bias: Annotated[list[str] | None, unset("--logit-bias", metavar="TOKEN=BIAS", help=_BIAS, rich_help_panel=Rare(_DRAW))] = None,  # noqa: E501
    repetition_penalty: Annotated[float, typer.Option(help=_REPETITION, rich_help_panel=Rare(_DRAW))] = SampleConfig.repetition_penalty,  # noqa: E501
    presence_penalty: Annotated[float, typer.Option(help=_PRESENCE, rich_help_panel=Rare(_DRAW))] = SampleConfig.presence_penalty,  # noqa: E501
    temperature: Annotated[float, typer.Option("--temperature", "-t", help=_TEMPERATURE, rich_help_panel=_DRAW)] = SampleConfig.temperature,  # noqa: E501
    top_k: Annotated[int, typer.Option(help=_TOP_K, rich_help_panel=_DRAW)] = SampleConfig.top_k,
    top_p: Annotated[float, typer.Option(help=_TOP_P, rich_help_panel=_DRAW)] = SampleConfig.top_p,
    min_p: Annotated[float, typer.Option(help=_MIN_P, rich_help_panel=_DRAW)] = SampleConfig.min_p,
    typical: Annotated[float, typer.Option(help=_TYPICAL, rich_help_panel=Rare(_DRAW))] = SampleConfig.typical,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", parser=parse_count, metavar="N", help="The most tokens to generate.")] = SampleConfig.max_new_tokens,  # noqa: E501
    num_samples: Annotated[int, typer.Option(help="How many texts, generated together.")] = SampleConfig.num_samples,
    stop: Annotated[list[str] | None, unset(help="End where this text would come; may be given several times.")] = None,
    seed: SeedOption = None,
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Show the text as it is made, or at the end.", rich_help_panel=MORE)] = True,  # noqa: E501
    color: Annotated[bool, typer.Option("--color", help=_COLOR, rich_help_panel=_SEE)] = False,
    logprobs: Annotated[int | None, unset("--logprobs", metavar="K", min=0, help=_LOGPROBS, rich_help_panel=Rare(_SEE))] = None,  # noqa: E501
    trace: Annotated[bool, typer.Option("--trace", help=_TRACE, rich_help_panel=Rare(_SEE))] = False,
    stats: Annotated[bool, typer.Option("--stats", help=_STATS, rich_help_panel=Rare(_SPEED))] = False,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help=_CACHE, rich_help_panel=Rare(_SPEED))] = True,
    lookup: Annotated[bool | None, unset("--lookup/--no-lookup", help=_LOOKUP, rich_help_panel=Rare(_SPEED))] = None,
    verify: Annotated[bool, typer.Option("--verify", help=_VERIFY, rich_help_panel=Rare(_SPEED))] = False,
    device: DeviceOption = "auto",
    dtype: GenerationDtypeOption = "auto",
    chat: Annotated[bool, typer.Option("--chat", help=_CHAT)] = False,
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help=_INTERACTIVE)] = False,
    json: JsonOption = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help=_JSONL, rich_help_panel=MORE)] = False,
) -> None:
    # fmt: on
    """Continue a prompt, streaming the text.

    attncli generate "Once upon a time" --temperature 0.7
    attncli generate "ROMEO:" -n 100 --num-samples 3 --seed 1
    """
    many = num_samples > 1 or prompts is not None
    if interactive and (json or jsonl or verify or stats or many):
        raise UsageProblem(
            "--interactive makes one text at a time, for a person.",
            "Leave out --json, --jsonl, --stats, --verify, --prompts and --num-samples.",
        )
    if json and jsonl:
        raise UsageProblem("--json and --jsonl are two forms of the same.", "Give one.")
    if jsonl and (verify or stats):
        raise UsageProblem("--jsonl prints the texts and nothing else.", "With --verify or --stats use --json.")
    if trace and logprobs is not None and not (json or jsonl):
        raise UsageProblem("--trace and --logprobs are two reports on the same tokens.", "Give one, or add --json.")
    if lookup and not cache:
        raise UsageProblem("--lookup reads ahead into the cache.", "Leave out --no-cache or --lookup.")
    if chat and truncate:
        raise UsageProblem("--truncate would cut the chat template off.", "Leave out --truncate or --chat.")
    if interactive and prompt == "-":
        raise UsageProblem("--interactive reads its turns from standard input.", "Leave out the -.")
    if chat:
        from attncli.checkpoint.chat import required_chat_template
        from attncli.cli.finding import find

        required_chat_template(find(model, revision))  # before torch is imported, which takes seconds
    begin_compiling(device)
    config = SampleConfig(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical=typical,
        repetition_penalty=repetition_penalty, presence_penalty=presence_penalty, max_new_tokens=max_new_tokens,
        num_samples=num_samples, stop=tuple(stop or ()), seed=draw_seed() if seed is None else seed,
    )  # fmt: skip
    texts = [prompt_or_file(prompt, piped=False)] if interactive else _texts(prompt, prompts)
    from attncli.generation.bias import parse_bias, token_biases

    biases = [parse_bias(word) for word in logit_bias or ()]
    from attncli.cli.asking import Asking
    from attncli.cli.finding import note_default
    from attncli.cli.loading import load_to_generate
    from attncli.cli.showing import Showing
    from attncli.generation.engine import EngineConfig

    loaded, backend = load_to_generate(model, device, dtype, revision, keep=verify)
    config = replace(config, logit_bias=token_biases(loaded.tokenizer, biases))
    showing = Showing(stream=stream, color=color, logprobs=logprobs, trace=trace, stats=stats, json=json, jsonl=jsonl)
    how = EngineConfig(cached=cache, lookup=lookup)
    asking = Asking.of(loaded, chat)
    if interactive:
        from attncli.cli.talk import Talk, talk

        talk(Talk(loaded, backend, config, showing, how, truncate, asking), prompt and texts[0])
    else:
        showing.make(
            loaded, backend, texts, config, how,
            file=prompts, truncate=truncate, verify=verify, tell_seed=seed is None, asking=asking,
        )  # fmt: skip
        note_default(model)


def _texts(prompt: str | None, file: str | None) -> list[str]:
    """The prompts: one, or those of a file, a line each. Raises BadInput or UsageProblem."""
    from attncli.text.files import read_text
    from attncli.text.json_lines import SUFFIXES, prompts_of

    if file is None:
        return [prompt_or_file(prompt)]
    if prompt is not None:
        raise UsageProblem("There is a prompt, and a file of prompts.", "Give one of the two.")
    texts = [line.removesuffix("\r") for line in read_text(file).removesuffix("\n").split("\n")]
    if texts == [""]:
        raise BadInput(f"{file} holds no prompts.", "Give a file with one on each line.")
    of_json = prompts_of(texts, file) if file.endswith(SUFFIXES) else None
    return of_json or texts
