"""The Python library: `load` returns a Model, and `train` returns a Training run.

`load` finds a model by name, as `-m` does. Every method computes what the command of its name computes: the same text
for the same seed, the same record for a view, the same score for a text. Settings are keyword arguments; they are
fields of the configs in attncli/config/ and of ViewOptions in attncli/views.py. The library prints nothing.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import torch

from attncli import training
from attncli.checkpoint.directory import ADAPTER_CONFIG, name_of
from attncli.checkpoint.load import LoadedModel, load_model
from attncli.checkpoint.resolve import resolve_adapted, resolve_model
from attncli.checkpoint.target import claimed, target_directory
from attncli.config import CorpusConfig, EngineConfig, ModelConfig, SampleConfig, TrainConfig
from attncli.errors import UsageProblem
from attncli.evaluation.aligning import Alignment, align_pairs
from attncli.evaluation.alignment import LINK_METHODS, LinkMethod, default_method
from attncli.evaluation.cross_attention import require_encoder_decoder
from attncli.evaluation.evaluate import opened_to_score, score_text
from attncli.evaluation.head_choice import choose_heads, sample_of, selections_of
from attncli.evaluation.pair_words import Split, words_of_pair
from attncli.evaluation.score import Score
from attncli.explain.reading import TextPair
from attncli.generation.candidates import candidates, candidates_for_masks
from attncli.generation.continuation import continued
from attncli.generation.defaults import settings_for, target_and_source
from attncli.generation.engine import generate
from attncli.generation.events import Candidates, Event, Sample, Text, Token
from attncli.generation.loading import choose_engine
from attncli.generation.samples import samples_of
from attncli.generation.token_details import TokenDetails
from attncli.model.backend import Backend
from attncli.model.device import dtype_name, pick_device, pick_dtype
from attncli.model.native import round_to_int8
from attncli.pages import html_page
from attncli.paths import is_file
from attncli.text.documents import Documents
from attncli.text.files import refuse_missing
from attncli.text.pair_inputs import InputKind, files_and_kind
from attncli.text.parts import Part
from attncli.text.tokenizer import Piece, Tokenizer, checked_text
from attncli.text.tokens import tokens_of
from attncli.training.reports import Report, Result
from attncli.views import ViewOptions, find_view, reading_of, refuse_generate, request, text_of

C = TypeVar("C")
_TEMPERATURES = (0.0, 0.5, 1.0, 2.0)
_OF_A_MODEL = {"size", "tokenizer", "vocab_size"}  # the settings of a run that the model to fine-tune decides
_OF_A_PAGE = ("head", "layer", "words", "weights", "temperature", "part", "target", "pair")  # fields of ViewOptions
_OF_A_SCREEN = ("plain", "csv", "npz", "compare_weights")  # the fields of ViewOptions that choose the output


def load(
    name: str | Path | None = None,
    *,
    adapter: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    revision: str = "",
) -> Model:
    """Returns the model `name`: a directory, a name listed by `attncli models`, or owner/name on the Hugging Face hub.

    None means the default model. `adapter` is the directory of a LoRA adapter, which is merged into the weights. With
    it, None means the model that the adapter was trained for.

    `device` is auto, cpu, cuda or mps. `dtype` is the type that texts are generated and scored with:
    auto, float32, bfloat16, float16 or, on a CPU, int8. auto means the default of each command. `revision` is a branch,
    tag or commit of a model of the hub.

    Raises BadCheckpoint for a model that does not exist, UsageProblem for a device that does not exist, OutOfRoom for a
    download that does not fit.
    """
    places = resolve_adapted(
        None if name is None else str(name), None if adapter is None else str(adapter), revision or None
    )
    return Model(places.model, device, dtype, places.adapter)


class Model:
    """A model on disk. The first method that needs the weights loads them."""

    def __init__(self, path: Path, device: str = "auto", dtype: str = "auto", adapter: Path | None = None) -> None:
        """Stores the directories of a model and of an adapter. Programs call `load`, which finds them."""
        self.path, self.adapter = path, adapter
        self._device, self._dtype = str(pick_device(device)), dtype
        self._engine = choose_engine(device, dtype)
        self._generator: tuple[LoadedModel, Backend] | None = None
        self._loaded: dict[str, LoadedModel] = {}

    def __repr__(self) -> str:
        adapter = "" if self.adapter is None else f", adapter={str(self.adapter)!r}"
        return f"Model({str(self.path)!r}{adapter})"

    @property
    def name(self) -> str:
        """The name of the model's directory."""
        return name_of(self.path)

    @property
    def config(self) -> ModelConfig:
        """The shape of the network."""
        return self._any().model.config

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; its methods `encode`, `decode` and `pieces` convert between text and tokens."""
        return self._any().tokenizer

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings on this model that commands print, for example that its adapter was trained for another model."""
        return self._any().notes

    @overload
    def generate(
        self, prompt: str = "", *, tokens: Literal[False] = False, top: int = 0, **settings: Any
    ) -> Iterator[str]: ...
    @overload
    def generate(
        self, prompt: str = "", *, tokens: Literal[True], top: int = 0, **settings: Any
    ) -> Iterator[Token]: ...
    def generate(
        self, prompt: str = "", *, tokens: bool = False, top: int = 0, **settings: Any
    ) -> Iterator[str] | Iterator[Token]:
        """Continues a prompt, or translates it if the model translates, and yields pieces of text.

        With `tokens`, yields a Token for each token instead. A Token has an id, a text and a log-probability; its field
        `top` lists the `top` most probable alternatives. Settings are the fields of SampleConfig and EngineConfig, such
        as temperature=0.7 or seed=1.

        Raises UsageProblem for a setting that is wrong, BadInput for a prompt longer than the context.
        """
        if settings.get("num_samples", 1) != 1:
            raise UsageProblem("generate streams one text.", "Call generate_all for several samples.")
        events = self._events([prompt], settings, TokenDetails(top) if tokens else None)
        if tokens:
            return (event for event in events if isinstance(event, Token))
        return (event.text for event in events if isinstance(event, Text))

    def generate_all(self, prompts: str | Sequence[str], **settings: Any) -> list[Sample]:
        """Continues or translates each prompt num_samples times, in batches.

        Returns the samples in the order of the prompts; a Sample has a text and ids. The settings are the fields of
        SampleConfig and EngineConfig. Raises UsageProblem for a setting that is wrong, BadInput for a prompt longer
        than the context.
        """
        texts = [prompts] if isinstance(prompts, str) else prompts
        return samples_of(self._events(texts, {"streamed": False} | settings, None))

    def explain(
        self, text: str, *, view: str | None = None, token: int | str | None = None, generate: int = 0, **options: Any
    ) -> Any:
        """Returns the record that `attncli explain TEXT --view VIEW` draws.

        `view` is one of attncli.views.NAMED_VIEWS; None means the first screen (an Explanation). `token` is the token
        in focus, as an index or a word. None means the last token; of a translation or for BERT, the last word or
        [MASK]. The text is first continued greedily by `generate` tokens. Options are the fields of ViewOptions, such
        as head="2.3" or words=True. The network computes in float32.

        Raises UsageProblem for an option that is invalid or does not apply to this view, BadInput for a text that is
        too long.
        """
        _refuse_unknown(options, [field.name for field in fields(ViewOptions) if field.name not in _OF_A_SCREEN])
        chosen, asked = find_view(view), ViewOptions(**_with_head(options))
        chosen.refuse_options(asked)
        loaded = self._read("float32")
        read = self._text(loaded, text, asked, generate)
        reading = reading_of(loaded, read, chosen, asked)
        focus = None if token is None else str(token)
        return chosen.load(asked).find(request(reading, loaded.tokenizer, focus, asked))

    def page(self, text: str, *, token: int | str | None = None, generate: int = 0, **options: Any) -> str:
        """Returns the interactive page of a text as HTML, which `attncli explain TEXT --page FILE` writes.

        `token` is the token in focus, as in `explain`. The text is first continued greedily by `generate` tokens.
        Options are the fields of ViewOptions that choose the text and what the page shows first: head, layer, words,
        weights, temperature, part, target and pair. The network computes in float32.

        Raises UsageProblem for an option that is invalid, BadInput for a text that is too long.
        """
        _refuse_unknown(options, _OF_A_PAGE)
        asked = ViewOptions(**_with_head(options))
        loaded = self._read("float32")
        read = self._text(loaded, text, asked, generate)
        return html_page(loaded, read, None if token is None else str(token), asked)

    def score(self, text: str) -> Score:
        """Returns the score of the model on a text, computed as in `attncli eval`: nats, bits per byte, perplexity.

        Raises BadInput for a text with no token to score, and for a text that is not valid Unicode, UsageProblem for a
        model that translates or predicts no next token.
        """
        loaded = self._read("float32" if self._dtype == "auto" else self._dtype)
        loaded.refuse_encoder("predicts no next token, so it has no perplexity")
        if loaded.translates:
            raise UsageProblem(
                f"{loaded.name} translates, and score scores one text.",
                f"On a file of pairs: attncli eval {loaded.name} pairs.tsv",
            )
        tokens = tokens_of(Part.whole(Documents.of([checked_text(text)])), loaded.tokenizer)
        return score_text(loaded, opened_to_score(tokens, loaded.tokenizer))

    def align(self, source: str, target: str, **settings: Any) -> Alignment:
        """Links the words of a source and its translation. The settings are the keywords of `align_all`."""
        return self.align_all([source], [target], **settings)[0]

    def align_all(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        *,
        heads: Sequence[tuple[int, int]] = (),
        layer: int | None = None,
        shift: str | None = None,
        method: LinkMethod | None = None,
        split: Split = "words",
    ) -> list[Alignment]:
        """Links the words of each source and its translation.

        An Alignment has the words of both sides, their `links` and `weights`. `method` is combined, predictions or
        attention, as in `attncli align`; by default combined, or predictions for one or two pairs. The more pairs
        are given, the better are the links of combined. `heads`, a `layer` or a `shift` select attention, and restrict
        the choice of heads, which is made on the given pairs. `split` is words, spaces or tokens.

        Raises UsageProblem for a model without cross-attention, or for a head or method that does not exist, BadInput
        for a text without words or longer than the context.
        """
        if isinstance(sources, str) or isinstance(targets, str) or len(sources) != len(targets):
            raise UsageProblem("align_all needs as many targets as sources.", "Give two lists of texts.")
        asked = bool(heads) or layer is not None or shift is not None
        method = method or default_method(len(sources), attention=asked)
        if method not in LINK_METHODS or (asked and method != "attention"):
            hint = "Heads, layers and shifts are those of attention." if asked else f"Give {', '.join(LINK_METHODS)}."
            raise UsageProblem(f"The method {method} is not one that can be used here.", hint)
        loaded = self._read("float32")
        require_encoder_decoder(loaded.model, loaded.name)
        candidates = selections_of(loaded.model, heads, layer, shift)
        pairs = [words_of_pair(*pair, loaded, split) for pair in zip(sources, targets, strict=True)]
        compared = [pairs[at] for at in sample_of(len(pairs))] if method == "attention" else []
        selected = choose_heads(loaded.model, compared, candidates).selected if compared else None
        return list(align_pairs(loaded.model, pairs, method, selected))

    def next(
        self,
        text: str = "",
        *,
        temperatures: float | Sequence[float] = _TEMPERATURES,
        count: int = 10,
        target: str | None = None,
    ) -> Candidates:
        """Returns the `count` most probable next tokens of a text, with their probabilities at each temperature.

        If the model translates, returns the next tokens of the translation, which begins with `target`. Raises
        BadInput for a text longer than the context, UsageProblem for a `target` if the model does not translate.
        """
        loaded = self._read(self._dtype)
        each = (temperatures,) if isinstance(temperatures, int | float) else temperatures
        loaded.refuse_encoder("predicts no next token; call fill")
        prompt, source = target_and_source(loaded, loaded.prompt(text), target)
        return candidates(loaded.model, loaded.tokenizer, prompt, each, count, source)

    def fill(
        self,
        text: str,
        pair: str | None = None,
        *,
        temperatures: float | Sequence[float] = _TEMPERATURES,
        count: int = 10,
    ) -> tuple[Candidates, ...]:
        """Returns the `count` most probable tokens for each [MASK] of a text, as `attncli next` does for BERT.

        `pair` is the second text of a pair. Raises BadInput for a text without a mask or longer than the context, and
        UsageProblem for a model that predicts no masked words.
        """
        loaded = self._read(self._dtype)
        each = (temperatures,) if isinstance(temperatures, int | float) else temperatures
        return candidates_for_masks(loaded.model, loaded.tokenizer, loaded.pieces(text, pair), each, count)

    def _events(self, texts: Sequence[str], settings: dict[str, Any], details: TokenDetails | None) -> Iterator[Event]:
        sampling, engine = _configs(settings, SampleConfig, EngineConfig)
        loaded, backend = self._to_generate()
        loaded.refuse_encoder("continues no text")
        ids = [loaded.prompt(prompt) for prompt in texts]
        prompts, sources = loaded.inputs(ids)
        sampling = settings_for(loaded, sampling, settings)
        return generate(backend, loaded.tokenizer, prompts, sampling, loaded.end_ids, details, engine, sources)

    def _to_generate(self) -> tuple[LoadedModel, Backend]:
        """Returns the model and the backend that generate text; the first call loads them.

        The backend of a CPU has its own copy of the weights.
        """
        if self._generator is None:
            self._generator = self._engine.load(self.path, self.adapter)
        return self._generator

    def _any(self) -> LoadedModel:
        """Returns any loaded model, for its shape and tokenizer. If no model is loaded yet, loads one.

        The model may have weights of any dtype, or no weights because a CPU backend has its own copy.
        """
        return next(iter(self._loaded.values()), None) or self._to_generate()[0]

    @staticmethod
    def _text(loaded: LoadedModel, text: str, options: ViewOptions, generate: int) -> list[Piece] | TextPair:
        """Returns a text to explain: with its translation, or continued greedily by `generate` tokens."""
        refuse_generate(loaded, generate)
        read = text_of(loaded, text, options)
        return read if isinstance(read, TextPair) else continued(loaded, read, generate)

    def _read(self, dtype: str) -> LoadedModel:
        """Returns the PyTorch model with weights of type `dtype`; the first call for a type loads the model.

        For `int8`, the matrices are rounded to int8 values and stored as float32.
        """
        place = torch.device(self._device)
        stored = pick_dtype("float32" if dtype == "int8" else dtype, place)
        kind = dtype if dtype == "int8" else dtype_name(stored)
        if kind not in self._loaded:
            loaded = load_model(self.path, place, stored, self.adapter)
            if dtype == "int8":
                round_to_int8(loaded.model)
            self._loaded[kind] = loaded
        return self._loaded[kind]


def train(
    files: str | Path | Sequence[str | Path] = (),
    out: str | Path | None = None,
    *,
    name: str | None = None,
    pairs: str | Path | Sequence[str | Path] = (),
    source: str | Path | None = None,
    target: str | Path | None = None,
    start: str | Path | None = None,
    val_file: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    watch_heads: bool = False,
    **settings: Any,
) -> Training:
    """Returns a training run on files. Iterate over the run for its reports, or call `finish` for the model.

    `files` contain text, or are recognized as pairs. `pairs` are files of pairs; `source` and `target` are two files,
    where line i of the second translates line i of the first. A run on pairs trains a model that translates.

    The model is saved in the directory `out`, by default in ./checkpoints under `name` or the name of the first file.
    `force` replaces an existing model; `resume` continues a stopped run. `start` is a model to fine-tune. `val_file` is
    the text or the pairs to validate on, by default a part of the files. Settings are the fields of
    TrainConfig and CorpusConfig, such as steps=200, seconds=60 or tokenizer="char".

    Raises UsageProblem for an invalid setting, BadInput for a file that does not exist.
    """
    if resume:
        _refuse_given(
            [*settings, *(["start"] if start is not None else [])], "A resumed run keeps its plan", {"device"}
        )
    if start is not None:
        _refuse_given(settings, "The model of start keeps its shape and tokenizer", settings.keys() - _OF_A_MODEL)
    parallel = (None if side is None else str(side) for side in (source, target))
    listed, kind = files_and_kind(_listed(files), _listed(pairs), *parallel)
    held_out = None if val_file is None else str(val_file)
    pinned, text = _configs(settings, TrainConfig, CorpusConfig)
    refuse_missing([*listed, *([held_out] if held_out is not None else [])])
    path = target_directory(listed, name, None if out is None else Path(out), resume=resume)
    return Training(path, _reports(path, listed, kind, held_out, start, pinned, text, resume, force, watch_heads))


class Training:
    """A training run. The run begins when its first report is requested, and locks its directory until it ends."""

    def __init__(self, path: Path, reports: Generator[Report, None, None]) -> None:
        """Stores the path and the reports of a run. Programs call `train`, which chooses the path."""
        self.path = path
        self.result: Result | None = None  # the steps, the seconds and the best score; set when the run ends
        self._reports = reports

    def __iter__(self) -> Iterator[Report]:
        """Trains, and yields the reports. The last report is a Result.

        Raises Diverged, OutOfRoom, BadInput or UsageProblem.
        """
        for report in self._reports:
            if isinstance(report, Result):
                self.result = report
            yield report

    def finish(self) -> Model:
        """Trains to the end of the run, and returns the model."""
        for _ in self:
            pass
        if self.result is None:
            raise UsageProblem(
                f"The run in {self.path} ended without a result.", "Start or resume it with attncli.train."
            )
        return load(adapter=self.path) if is_file(self.path / ADAPTER_CONFIG) else Model(self.path)

    def close(self) -> None:
        """Ends the run early and unlocks its directory. The last save stays, and `resume` continues from it."""
        self._reports.close()


def _reports(
    path: Path,
    files: Sequence[str],
    kind: InputKind | None,
    val_file: str | None,
    start: str | Path | None,
    pinned: TrainConfig,
    text: CorpusConfig,
    resume: bool,
    force: bool,
    watch_heads: bool,
) -> Generator[Report, None, None]:
    began = time.monotonic()
    with claimed(path, resume=resume, force=force):
        if resume:
            job = training.resume_job(path, files, val_file, pinned.device, kind=kind, watch_heads=watch_heads)
        else:
            model = None if start is None else load_model(resolve_model(str(start)), torch.device("cpu"), torch.float32)
            spent = time.monotonic() - began
            job = training.new_job(
                files, val_file, text, pinned, spent=spent, start=model, kind=kind, watch_heads=watch_heads
            )
        yield from training.run_job(job, path, started=began)


def _listed(files: str | Path | Sequence[str | Path]) -> list[str]:
    return [str(file) for file in ([files] if isinstance(files, str | Path) else files)]


def _configs(settings: dict[str, Any], first: type[C], second: type[Any]) -> tuple[C, Any]:
    """Returns two configs made from settings: each setting goes to the config that has a field of its name.

    Raises UsageProblem for a setting that neither config has.
    """
    names = [[field.name for field in fields(config)] for config in (first, second)]  # type: ignore[arg-type]
    _refuse_unknown(settings, [*names[0], *names[1]])
    own, others = ({name: _as_tuple(name, settings[name]) for name in settings if name in known} for known in names)
    return first(**own), second(**others)


def _as_tuple(name: str, value: Any) -> Any:
    """Returns the value of a setting; a list, a dict (for `logit_bias`) or a single `stop` text becomes a tuple."""
    if name == "stop" and isinstance(value, str):
        return (value,)
    if isinstance(value, dict):
        return tuple(value.items())
    return tuple(value) if isinstance(value, list) else value


def _refuse_given(given: Iterable[str], why: str, allowed: Collection[str]) -> None:
    """Raises UsageProblem for the first given setting that is not in `allowed`; `why` begins the message."""
    for name in given:
        if name not in allowed:
            raise UsageProblem(f"{why}, so {name} cannot be given.", f"Leave {name} out.")


def _with_head(options: dict[str, Any]) -> dict[str, Any]:
    """Returns options with the head as text. Raises UsageProblem for a head that is a floating-point number."""
    head = options.get("head")
    if isinstance(head, float):
        raise UsageProblem(f"head is the number {head}.", "Give LAYER.HEAD as text, such as head='2.3'.")
    return options if head is None else options | {"head": str(head)}


def _refuse_unknown(settings: Iterable[str], known: Collection[str]) -> None:
    """Raises UsageProblem for an unknown setting; the hint gives the nearest name and all names."""
    for name in settings:
        if name not in known:
            near = get_close_matches(name, known, 1)
            meant = f"Did you mean {near[0]}? " if near else ""
            raise UsageProblem(f"There is no setting {name!r}.", f"{meant}There are {', '.join(sorted(known))}.")
