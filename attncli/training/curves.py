"""Reads the loss curves and head curves of a run from metrics.jsonl and run.json, even during the run. No torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attncli.checkpoint.catalog import find_model
from attncli.checkpoint.directory import METRICS, RUN, TOKENIZER, ModelFolder, read_json_lines
from attncli.errors import AttnError, BadCheckpoint, hint_in
from attncli.paths import is_file, real
from attncli.training.reports import plan_from_document

Floats = NDArray[np.float64]
_APPEARED = 0.5  # a head belongs to a kind if it puts more than this share of its attention on the kind's pattern
_MOST_KINDS = 6  # the most kinds of heads that a chart can distinguish


@dataclass(frozen=True)
class Points:
    """The points of a loss curve, in the order of their steps. A figure that was not recorded is NaN."""

    steps: Floats
    seconds: Floats
    nats: Floats  # nats per token
    bits: Floats  # bits per byte


@dataclass(frozen=True)
class RunCurves:
    """The loss curves of a run, and its name, path and tokenizer."""

    name: str
    path: str
    training: Points
    validation: Points  # on an evenly spread sample of the validation part
    final: tuple[float, float] | None  # nats per token and bits per byte of the best weights; None until the run ends
    tokens_per_step: int | None
    tokenizer: str | None  # the digest of tokenizer.json; nats per token are comparable only if the digests are equal
    final_sampled: bool = False  # whether only a sample of the validation part was scored at the end


@dataclass(frozen=True)
class HeadCurve:
    """The score of the best head of one kind at each evaluation; NaN for an evaluation that scored no head."""

    kind: str
    scores: Floats
    chances: Floats  # the score of uniform attention at each evaluation
    heads: tuple[str, ...]  # the best head at each evaluation, such as '1.2': head 2 of layer 1

    @property
    def appears(self) -> int | None:
        """Returns the index of the first evaluation at which the best head has a score above _APPEARED, or None."""
        return next((at for at, score in enumerate(self.scores.tolist()) if score > _APPEARED), None)


@dataclass(frozen=True)
class RunHeads:
    """The head curves of a run, one per kind of head."""

    name: str
    path: str
    steps: Floats
    seconds: Floats
    tokens_per_step: int | None
    kinds: tuple[HeadCurve, ...]


@dataclass(frozen=True)
class _Record:
    """The contents of the files in which a run records its progress."""

    name: str
    path: str
    lines: list[dict[str, Any]]
    run: dict[str, Any] | None = None
    tokenizer: str | None = None


def read_curves(name: str | None) -> RunCurves:
    """Reads the loss curves of a run.

    `name` is the path of a metrics.jsonl or a model directory, or the name of a model. None means the newest run.
    Raises BadCheckpoint if the run does not exist or has no measurements yet.
    """
    found = _record(name)
    return curves_from_lines(found.name, found.path, found.lines, found.run, found.tokenizer)


def read_heads(name: str | None) -> RunHeads:
    """Reads the head curves of a run. `name` means the same as in `read_curves`.

    Raises BadCheckpoint if the run does not exist or its heads were not scored.
    """
    found = _record(name)
    return heads_from_lines(found.name, found.path, found.lines, found.run)


def _record(name: str | None) -> _Record:
    if name is not None and name.endswith(".jsonl") and is_file(name):
        path = Path(name)
        if path.name != METRICS or not is_file(path.parent / RUN):
            return _Record(path.stem, str(path), read_json_lines(path))
        name = str(path.absolute().parent)
    path = find_model(name)
    try:
        return _read_model(path)
    except BadCheckpoint:
        if not is_file(path / METRICS):
            raise
        return _read_model(find_model(name))  # a save may have just replaced the directory


def _read_model(path: Path) -> _Record:
    folder = ModelFolder(path)
    if not folder.holds(METRICS):
        raise BadCheckpoint(f"{path} holds no {METRICS}: attncli did not train it.", "Name a run: attncli models")
    run = folder.json_if_any(RUN)
    tokenizer = hashlib.sha256(folder.read(TOKENIZER)).hexdigest() if folder.holds(TOKENIZER) else None
    return _Record(real(path).name, str(path), folder.json_lines(METRICS), run, tokenizer)


def curves_from_lines(
    name: str,
    path: str,
    lines: Iterable[Mapping[str, Any]],
    run: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
) -> RunCurves:
    """Returns the loss curves in the lines of a metrics.jsonl; `run` is the content of run.json.

    Raises BadCheckpoint if no line is a measurement.
    """
    kinds: dict[str, list[Mapping[str, Any]]] = {"step": [], "eval": [], "final": []}
    for line in lines:
        kinds.get(str(line.get("kind")), []).append(line)
    steps, evaluations, finals = kinds.values()
    if not steps and not evaluations:
        raise BadCheckpoint(f"{path} has no measurements yet.", "A run writes them when it saves; try again later.")
    validation = Points(*(_column(evaluations, key) for key in ("step", "seconds", "nats_per_token", "bits_per_byte")))
    tokens_per_step, bits = _facts(run or {})
    if bits is None and len(evaluations):  # use the ratio of bits to nats of the validation part
        with np.errstate(all="ignore"):
            bits = float(np.median(validation.bits / validation.nats))
    nats = _column(steps, "loss")
    training = Points(_column(steps, "step"), _column(steps, "seconds"), nats, nats * (bits or math.nan))
    final = (_number(finals[-1], "nats_per_token"), _number(finals[-1], "bits_per_byte")) if finals else None
    results = (run or {}).get("results")
    sampled = isinstance(results, dict) and results.get("validation") == "sampled"
    return RunCurves(name, path, training, validation, final, tokens_per_step, tokenizer, sampled)


def heads_from_lines(
    name: str, path: str, lines: Iterable[Mapping[str, Any]], run: Mapping[str, Any] | None = None
) -> RunHeads:
    """Returns the head curves in the lines of a metrics.jsonl. Raises BadCheckpoint if no line contains head scores."""
    watched = [line for line in lines if line.get("kind") == "heads" and isinstance(line.get("best"), dict)]
    kinds = list(dict.fromkeys(kind for line in watched for kind in line["best"]))[:_MOST_KINDS]
    if not kinds:
        command, call = "attncli train FILE --watch-heads", "train(file, watch_heads=True)"
        raise BadCheckpoint.naming(
            lambda named: (
                f"{path} has no scores of heads.",
                f"They are recorded at each evaluation of: {hint_in(named, command, call)}",
            )
        )
    curves = []
    for kind in kinds:
        found = [best if isinstance(best := line["best"].get(kind), dict) else {} for line in watched]
        named = tuple(f"{_index(best, 'layer')}.{_index(best, 'head')}" if best else "" for best in found)
        curves.append(HeadCurve(kind, _column(found, "score"), _column(found, "chance"), named))
    steps, seconds = _column(watched, "step"), _column(watched, "seconds")
    return RunHeads(name, path, steps, seconds, _facts(run or {})[0], tuple(curves))


def _index(best: Mapping[str, Any], key: str) -> str:
    value = _number(best, key)
    return f"{value:.0f}" if math.isfinite(value) else "?"


def _facts(run: Mapping[str, Any]) -> tuple[int | None, float | None]:
    """Returns the tokens per step, and how many bits per byte correspond to one nat per token.

    Both are None if run.json has no plan.
    """
    try:
        plan = plan_from_document(run["plan"])
        return int(plan.tokens_per_step), float(plan.bits_per_byte(1.0))
    except (AttnError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        return None, None


def _column(lines: Sequence[Mapping[str, Any]], key: str) -> Floats:
    return np.array([_number(line, key) for line in lines], np.float64)


def _number(line: Mapping[str, Any], key: str) -> float:
    value = line.get(key)
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of the metrics.jsonl in a model directory. Raises BadCheckpoint if it cannot be read."""
    return ModelFolder(path).json_lines(METRICS)
