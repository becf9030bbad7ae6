"""Generates samples of a run: a short text at each evaluation, a longer text after the last step."""

from __future__ import annotations

from attncli.checkpoint.load import LoadedModel
from attncli.config import SampleConfig
from attncli.generation.engine import generate
from attncli.generation.events import Finished, Text
from attncli.model.backend import TorchBackend
from attncli.model.transformer import Transformer
from attncli.text.corpus import Corpus
from attncli.training import recipe
from attncli.training.reports import Plan, SampleReport
from attncli.training.tasks.base import Sampler

_OPENING = 200  # the first words are taken from this many characters of the text


def sampler(corpus: Corpus, plan: Plan) -> Sampler | None:
    """Returns a function that continues the first words of the text with a model, or None if the run makes no samples.

    A run makes no samples if it is too short, or if the first words do not fit the context. A shorter run has shorter
    samples, so that sampling takes a small share of its time.
    """
    tokenizer, tokens = corpus.tokenizer, recipe.SAMPLE_TOKENS
    if plan.seconds is not None:
        tokens = min(int(plan.seconds * recipe.SAMPLE_TOKENS_PER_SECOND), tokens)
    if tokens < recipe.FEWEST_SAMPLE_TOKENS:
        return None
    prompt = first_words(corpus)
    config = SampleConfig(max_new_tokens=tokens, seed=plan.seed)
    ids = tokenizer.encode(prompt)
    if len(ids) > plan.model.context:
        return None

    def sample(model: Transformer, step: int) -> SampleReport:
        events = generate(TorchBackend(model), tokenizer, [ids], config)
        text = "".join(event.text for event in events if isinstance(event, Text))
        return SampleReport(step, prompt + text, len(prompt))

    return sample


def final_sample(loaded: LoadedModel, plan: Plan) -> list[int]:
    """Returns the token ids that the finished model generates without a prompt."""
    tokens = recipe.FINAL_SAMPLE_TOKENS
    if plan.seconds is not None:
        tokens = min(max(int(plan.seconds * recipe.FINAL_SAMPLE_TOKENS_PER_SECOND), recipe.SAMPLE_TOKENS), tokens)
    config = SampleConfig(max_new_tokens=tokens, seed=plan.seed)
    events = generate(TorchBackend(loaded.model), loaded.tokenizer, [[loaded.start_of_text]], config)
    return list(next(event.ids for event in events if isinstance(event, Finished)))


def first_words(corpus: Corpus) -> str:
    """Returns a prompt from the text: at most four words of its first line, without leading '-' characters."""
    first_line = corpus.opening(_OPENING).lstrip("- \t\r\n").partition("\n")[0]
    return " ".join(first_line.split()[:4])[:40] or "The"
