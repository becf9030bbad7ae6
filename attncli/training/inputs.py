"""Reads what a run trains on: files of text, files of pairs, or two files whose lines are pairs."""

from __future__ import annotations

from collections.abc import Sequence

from attncli.checkpoint.load import LoadedModel
from attncli.config import CorpusConfig, TrainConfig
from attncli.errors import UsageProblem
from attncli.text.corpus import prepare
from attncli.text.files import read_documents
from attncli.text.pair_corpus import prepare_pairs
from attncli.text.pair_inputs import InputKind
from attncli.text.pairs import Pairs, are_pair_files, read_pairs, read_parallel
from attncli.text.progress import Listener
from attncli.text.tokenizer import Tokenizer
from attncli.training.tasks.registry import TrainingCorpus


def kind_of(files: Sequence[str], config: CorpusConfig) -> InputKind:
    """Returns the kind of files that are given without a kind: pairs if `are_pair_files` recognizes them, else text."""
    return "pairs" if are_pair_files(files, config) else "text"


def read_corpus(
    files: Sequence[str],
    val_file: str | None,
    kind: InputKind,
    config: CorpusConfig,
    tokenizer: Tokenizer | None = None,
    progress: Listener | None = None,
) -> tuple[TrainingCorpus, tuple[str, ...]]:
    """Reads and tokenizes files. Returns the corpus, and notes on files that were skipped.

    `files` of the kind 'parallel' are the sources and the targets. Raises the errors of reading and of the token cache.
    """
    if kind == "text":
        held_out = read_documents([val_file], config, progress) if val_file is not None else None
        documents = read_documents(files, config, progress)
        corpus = prepare(documents, config, held_out, tokenizer, progress)
        return corpus, (*documents.notes, *(held_out.notes if held_out is not None else ()))
    held_out_pairs = read_pairs([val_file], config, progress) if val_file is not None else None
    return prepare_pairs(_pairs(files, kind, config, progress), config, held_out_pairs, tokenizer, progress), ()


def _pairs(files: Sequence[str], kind: InputKind, config: CorpusConfig, progress: Listener | None) -> Pairs:
    if kind == "parallel":
        return read_parallel(files[0], files[1], config, progress)
    return read_pairs(files, config, progress)


def refuse_settings(kind: InputKind, config: TrainConfig, start: LoadedModel | None, *, watch_heads: bool) -> None:
    """Raises UsageProblem for settings, or a model to fine-tune, that do not suit the kind of files."""
    if start is not None:
        start.refuse_encoder("is not trained here")
    _refuse_adapters(config, start)
    if kind == "text":
        if config.label_smoothing is not None:
            raise UsageProblem.naming(
                lambda named: (f"{named('label_smoothing')} is for pairs.", f"Leave {named('label_smoothing')} out.")
            )
        if start is not None and start.model.config.encoder_layers:
            message = f"{start.path} translates, so it cannot be trained on text."
            raise UsageProblem(message, "Give a file of pairs, or train a new model.")
        return
    refuse_watching(kind, watch_heads=watch_heads)
    if config.compile:
        raise UsageProblem.naming(
            lambda named: (
                f"{named('compile')} is not for pairs, since every batch has another shape.",
                f"Leave {named('compile')} out.",
            )
        )
    if start is not None and not start.model.config.encoder_layers:
        raise UsageProblem(
            f"{start.path} has no encoder, so it cannot be trained on pairs.",
            "Train a new model, or start from a model that translates.",
        )


def _refuse_adapters(config: TrainConfig, start: LoadedModel | None) -> None:
    """Raises UsageProblem for adapters without a model to adapt, and for a rank above the model's width."""
    if config.lora is None:
        return
    if start is None:
        raise UsageProblem.naming(
            lambda named: (
                f"{named('lora')} trains adapters of a model, and there is no model.",
                f"Name it with {named('start')}, or leave {named('lora')} out.",
            )
        )
    width = start.model.config.width
    if config.lora > width:
        raise UsageProblem.naming(
            lambda named: (
                f"{named('lora')} is {config.lora}, and the width of the model is {width}.",
                f"Give a smaller {named('lora')}: adapters that are as wide as the model save nothing.",
            )
        )


def refuse_watching(kind: InputKind, *, watch_heads: bool) -> None:
    """Raises UsageProblem if the heads of a run on pairs are to be scored."""
    if watch_heads and kind != "text":
        raise UsageProblem.naming(
            lambda named: (
                f"{named('watch_heads')} is for text: it scores the heads of a decoder that continues a text.",
                f"Leave {named('watch_heads')} out.",
            )
        )
