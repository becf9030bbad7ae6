"""`attncli generate`."""

from __future__ import annotations

from attncli.cli.compiling import begin_compiling
from attncli.cli.generating.display import Display
from attncli.cli.options import Given
from attncli.cli.shared import GENERATION_DTYPES, ModelSource
from attncli.cli.texts import prompt_or_file, prompts_of_file
from attncli.config import EngineConfig, SampleConfig
from attncli.config.option import argument, option
from attncli.errors import UsageProblem

_PROMPT = "The text to continue or translate, or a file with it; - reads standard input. Unset: start a new text."
_PROMPTS = (
    "A file with one prompt per line, or - for standard input; the prompts are continued as a batch, and an empty line "
    "starts a new text. In a .jsonl file each line is JSON with a prompt, a text or both."
)
_DTYPE = "auto, float32, bfloat16, float16 or, on a CPU, int8; auto is bfloat16 on CUDA, and on a CPU the stored type."
_CHAT = "Send the prompt as a message in the model's chat template; with -i, continue the conversation."
_INTERACTIVE = "Read prompts and commands, line by line; /help lists the commands."


def generate(
    *,
    prompt: str | None = argument(None, _PROMPT),
    prompts: str | None = option(None, _PROMPTS, metavar="FILE", rare=True),
    source: ModelSource,
    dtype: str = option("auto", _DTYPE, suggestions=GENERATION_DTYPES, rare=True),
    truncate: bool = option(False, "Keep the end of a prompt longer than the context.", rare=True),
    sampling: SampleConfig,
    chat: bool = option(False, _CHAT),
    interactive: bool = option(False, _INTERACTIVE, "--interactive", "-i"),
    display: Display,
    engine: EngineConfig,
    given: Given,
) -> None:
    """Continue a prompt, or translate it if the model translates, streaming the text.

    attncli generate "Once upon a time" --temperature 0.7
    attncli generate "ROMEO:" -n 100 --num-samples 3 --seed 1
    """
    if interactive:
        _refuse_interactive(prompt, prompts, sampling, display)
    if sampling.beams > 1:
        _refuse_beams(sampling, display, given)
    if chat:
        _refuse_chat(source, truncate)
    begin_compiling(source.device)
    texts = [prompt_or_file(prompt, piped=False)] if interactive else _texts(prompt, prompts)
    from attncli.cli.generating.session import Session

    session = Session.open(source, dtype, sampling, engine, display, chat=chat, truncate=truncate, given=given)
    if interactive:
        from attncli.cli.generating.interactive import talk

        talk(session, prompt and texts[0])
    else:
        from attncli.cli.bodies.generate import continue_prompts

        continue_prompts(session, texts, prompts, tell_seed="seed" not in given)


def _refuse_beams(sampling: SampleConfig, display: Display, given: Given) -> None:
    """Raises UsageProblem for options that cannot be combined with --beams."""
    why = f"--beams {sampling.beams} searches for the most probable text and samples no tokens"
    given.refuse(("temperature", "seed"), why)
    if display.trace or display.verify:
        name = "--trace" if display.trace else "--verify"
        raise UsageProblem(f"{name} works with sampled texts only.", f"Leave out {name} or --beams.")


def _refuse_interactive(prompt: str | None, prompts: str | None, sampling: SampleConfig, display: Display) -> None:
    """Raises UsageProblem for options that cannot be combined with --interactive."""
    if display.as_json or display.verify or display.stats or sampling.num_samples > 1 or prompts is not None:
        raise UsageProblem(
            "--interactive generates one text at a time and prints it for a person.",
            "Leave out --json, --jsonl, --stats, --verify, --prompts and --num-samples.",
        )
    if prompt == "-":
        raise UsageProblem("--interactive reads standard input line by line.", "Leave out the argument -.")


def _refuse_chat(source: ModelSource, truncate: bool) -> None:
    """Raises UsageProblem for --truncate, and for a model without a chat template."""
    if truncate:
        raise UsageProblem("--truncate would cut off the chat template.", "Leave out --truncate or --chat.")
    from attncli.cli.resolving import require_chat_template

    require_chat_template(source)  # before the import of torch, which takes seconds


def _texts(prompt: str | None, file: str | None) -> list[str]:
    """Returns the one prompt of the argument, or the prompts of `file`. Raises UsageProblem if both are given."""
    if file is None:
        return [prompt_or_file(prompt)]
    if prompt is not None:
        raise UsageProblem("There is a prompt and a file of prompts.", "Give one of the two.")
    return prompts_of_file(file)
