"""The screens of `attncli info` (shape, parameters, memory, training of a model) and `attncli models` (the list)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.checkpoint.card import learned_from_pairs
from attncli.checkpoint.catalog import MODELS_FOLDER, ModelEntry, shipped_model
from attncli.config import ModelConfig, shape_to_json
from attncli.model.count import (
    ATTENTION,
    BYTES,
    attention_weights,
    cache_bytes_per_token,
    count_parameters,
    multiplications,
)
from attncli.render.escape import fit, fold, one_line
from attncli.render.numbers import age, bar, count, duration, percent, plural, size, within_calendar
from attncli.render.palette import BAR
from attncli.text.names import listed

_LENGTHS = 4  # number of text lengths whose cost is shown
_WIDE = 60  # cells, for headings in full
_CACHE_IN_C = "float32"


def info_screen(
    title: str, config: ModelConfig, run: dict[str, Any], where: str | None, width: int = 80
) -> RenderableType:
    """Returns the screen of one model. `run` is the content of `run.json`, empty for a preset or a foreign model."""
    parts: list[RenderableType] = [Text(one_line(title), style="bold")]
    if where:
        parts.append(Text(one_line(where), style="dim"))
    parts += [Text(), _shape(config), Text(), _parameters(config, width), Text(), _memory(config)]
    parts += [Text(), _lengths(config, width)]
    if run:
        parts += [Text(), _history(run)]
    return Group(*parts)


def _pairs() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


_FEED_FORWARDS = {
    "swiglu": "SwiGLU",
    "geglu": "GEGLU",
    "geglu_erf": "GEGLU",
    "reglu": "ReGLU",
    "gelu": "GELU",
    "gelu_erf": "GELU",
    "relu": "ReLU",
    "ungated_silu": "SiLU",
}


def _shape(config: ModelConfig) -> Table:
    table = _pairs()
    norm = {"rms": "RMSNorm", "layer": "LayerNorm"}[config.norm]
    feed_forward = _FEED_FORWARDS[config.feed_forward]
    heads = f"{plural(config.heads, 'head')} of {config.head_width}"
    if config.kv_heads != config.heads:
        heads += f", sharing {plural(config.kv_heads, 'key/value head')}"
    layers = str(config.layers)
    if config.encoder_layers:
        layers = f"{config.encoder_layers} in the encoder, {config.layers} in the decoder"
    table.add_row("layers", layers)
    table.add_row("width", str(config.width))
    table.add_row("attention", heads + (", query/key norm" if config.qk_norm else ""))
    table.add_row("feed-forward", f"{feed_forward}, {config.feed_forward_width} wide")
    scaling = config.rope_scaling
    scaled = "" if scaling is None else f", {scaling.kind} scaling by {scaling.factor:g}"
    table.add_row("norm, positions", f"{norm}, {config.positions}{scaled}")
    table.add_row("context", f"{config.context} tokens{_window(config)}")
    table.add_row("vocabulary", f"{config.vocab_size:,} tokens, {'tied' if config.tied else 'separate'} output head")
    return table


def _window(config: ModelConfig) -> str:
    """Returns the window in words: ', a window of 512 in layers 2 to 5'; empty if no layer has a window."""
    windowed = [layer for layer in range(config.layers) if config.window_of(layer) is not None]
    if not windowed:
        return ""
    where = "" if len(windowed) == config.layers else f" in layers {windowed[0]} to {windowed[-1]}"
    where = f" in layer {windowed[0]}" if len(windowed) == 1 < config.layers else where
    return f", a window of {config.window}{where}"


def _parameters(config: ModelConfig, width: int) -> Table:
    parts = count_parameters(config)
    total = sum(parts.values())
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("parameters", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    room = min(20, width - 24 - len(f"{total:,}"))  # the names and the shares take 24 columns
    if room >= 4:
        table.add_column("", no_wrap=True)
    for part, number in parts.items():
        if number:
            drawn = [Text(bar(number / total, room), BAR)] if room >= 4 else []
            table.add_row(part, f"{number:,}", percent(number / total), *drawn)
    attention = sum(parts[part] for part in ATTENTION)
    table.add_row(*(Text(cell, "dim") for cell in ("in attention", f"{attention:,}", percent(attention / total))))
    table.add_row(Text("in all", "bold"), Text(f"{total:,}", "bold"))
    return table


def _memory(config: ModelConfig) -> Table:
    total = sum(count_parameters(config).values())
    table = _pairs()
    for dtype in ("float32", "bfloat16"):
        facts = f"{size(total * BYTES[dtype])} of weights"
        if config.kind != "encoder":
            facts += f"; {_cache(config, cache_bytes_per_token(config, dtype))}"
        table.add_row(dtype, facts)
    if config.kind == "encoder":
        table.add_row("cache", "none, because an encoder reads a text at once")
    else:
        table.add_row("on a CPU", f"the network in C keeps its cache in {_CACHE_IN_C}, whatever the weights are")
    return table


def _cache(config: ModelConfig, per_token: int) -> str:
    """Returns the size of the cache in words. An encoder-decoder also keeps keys and values of the source."""
    if config.kind == "encoder-decoder":
        full = size(2 * per_token * config.context)
        return f"{size(per_token)} of cache per token of source and of target, {full} for two full contexts"
    return f"{size(per_token)} of cache per token, {size(per_token * config.context)} for a full context"


def _lengths(config: ModelConfig, width: int) -> Table:
    """Returns the cost of a forward pass by text length, up to the full context; of an encoder-decoder, for both texts.

    The last column is the share of the multiplications that compute or use attention weights.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    tokens_of = "tokens of each text" if config.kind == "encoder-decoder" else "tokens"
    headings = (tokens_of, "attention weights", "multiplications", "for weights")
    for heading in headings if width >= _WIDE else ("tokens", "weights", "products", "for weights"):
        table.add_column(heading, justify="right", no_wrap=True)
    for tokens in _doubled(config.context):
        linear, quadratic = multiplications(config, tokens)
        share = percent(quadratic / (linear + quadratic))
        table.add_row(f"{tokens:,}", count(attention_weights(config, tokens)), count(linear + quadratic), share)
    return table


def _doubled(context: int) -> list[int]:
    """Returns the context and its repeated halves, in ascending order: 256 -> [32, 64, 128, 256]."""
    return [length for halvings in range(_LENGTHS - 1, -1, -1) if (length := context >> halvings)]


def _history(run: dict[str, Any]) -> Table:
    """Returns how the model was trained. `run` comes from a file, so any value may be missing or of any type."""
    table = _pairs()
    plan, progress, results, corpus = (_part(run, key) for key in ("plan", "progress", "results", "corpus"))
    if sources := corpus.get("sources"):
        named = listed([str(source) for source in sources]) if isinstance(sources, list) else str(sources)
        amount = f"{_number(corpus, 'train_characters'):,.0f} characters"
        if learned_from_pairs(corpus):
            amount = f"{_number(corpus, 'train_pairs'):,.0f} pairs"
        table.add_row("trained on", one_line(f"{named} ({amount})"))
    if start := run.get("from"):
        table.add_row("went on from", one_line(str(start)))
    if progress:
        took = duration(_number(progress, "seconds"))
        facts = f"{_number(progress, 'step'):,.0f} steps in {took} on {plan.get('device')}, {run.get('status')}"
        table.add_row("training", one_line(facts))
    if results:
        whole = "" if results.get("validation") == "whole" else " (on a sample of the validation part)"
        per_token, per_byte, per_character = (
            f"{_number(results, key):.3f}" for key in ("nats_per_token", "bits_per_byte", "nats_per_character")
        )
        figures = f"{per_token} nats per token · {per_byte} bits per byte · {per_character} nats per character"
        table.add_row("validation", figures + whole)
    if versions := _part(run, "versions"):
        table.add_row("made with", one_line(", ".join(f"{name} {version}" for name, version in versions.items())))
    return table


def _number(part: dict[str, Any], key: str) -> float:
    """Returns a number of the record, 0 when it is missing or not a number."""
    value = part.get(key)
    return float(value) if isinstance(value, int | float) and abs(value) < 1e18 else 0.0


def _part(run: dict[str, Any], key: str) -> dict[str, Any]:
    value = run.get(key)
    return value if isinstance(value, dict) else {}


def info_document(title: str, config: ModelConfig, run: dict[str, Any], where: str | None) -> dict[str, Any]:
    """Returns the facts of a model as a JSON-ready dictionary."""
    parts = count_parameters(config)
    return {
        "name": title,
        "path": where,
        "shape": shape_to_json(config),
        "parameters": {**parts, "in_attention": sum(parts[part] for part in ATTENTION), "total": sum(parts.values())},
        "memory_bytes": {
            dtype: {
                "weights": sum(parts.values()) * BYTES[dtype],
                "cache_per_token": cache_bytes_per_token(config, dtype) if config.kind != "encoder" else 0,
                "cache_per_token_in_c": cache_bytes_per_token(config, _CACHE_IN_C) if config.kind != "encoder" else 0,
            }
            for dtype in ("float32", "bfloat16")
        },
        "lengths": [
            {
                "tokens": tokens,
                "attention_weights": attention_weights(config, tokens),
                **dict(zip(("linear", "quadratic"), multiplications(config, tokens), strict=True)),
            }
            for tokens in _doubled(config.context)
        ],
        "run": run or None,
    }


def models_table(
    entries: Sequence[ModelEntry],
    parameters: dict[str, int],
    default: str | None,
    width: int = 80,
    now: float | None = None,
) -> RenderableType:
    """Returns the table of models, the newest first, with the default model marked. A narrow screen has fewer columns.

    Below the table, each folder other than ./checkpoints is listed with its models.
    """
    columns = {"model": 24, "parameters": 12, "bits/byte": 11, "status": 13, "on disk": 10, "age": 10}
    while sum(columns.values()) > width and len(columns) > 1:
        columns.popitem()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(name, justify="left" if name in ("model", "status", "age") else "right", no_wrap=True)
    for entry in newest_first(entries):
        results = _part(entry.run, "results")
        cells = {
            "model": fit(one_line(entry.name), 22) + (" ←" if entry.name == default else ""),
            "parameters": count(parameters[entry.name]) if entry.name in parameters else "–",
            "bits/byte": f"{_number(results, 'bits_per_byte'):.3f}" if results else "–",
            "status": one_line(entry.status),
            "on disk": size(entry.bytes),
            "age": age(time.time() if now is None else now, entry.modified),
        }
        table.add_row(*(cells[name] for name in columns))
    return Group(table, *(Text(fold(line, width), "dim") for line in _elsewhere(entries)))


def _elsewhere(entries: Sequence[ModelEntry]) -> list[str]:
    """Returns lines such as 'in /home/me/models: a, b' for models outside ./checkpoints, except shipped models."""
    here = MODELS_FOLDER.resolve()
    found: dict[str, list[str]] = {}
    for entry in entries:
        if entry.path.parent.resolve() != here and entry.path != shipped_model(entry.name):
            found.setdefault(str(entry.path.parent), []).append(entry.name)
    return [one_line(f"in {folder}: {', '.join(sorted(names))}") for folder, names in sorted(found.items())]


def models_document(
    entries: Sequence[ModelEntry], parameters: dict[str, int], default: str | None
) -> list[dict[str, Any]]:
    """Returns the list as JSON-ready dictionaries; `modified` is in ISO 8601, in UTC."""
    return [
        {
            "name": entry.name,
            "path": str(entry.path),
            "default": entry.name == default,
            "parameters": parameters.get(entry.name),
            "bytes": entry.bytes,
            "modified": datetime.fromtimestamp(within_calendar(entry.modified), UTC).isoformat(timespec="seconds"),
            "status": entry.status,
            "results": entry.run.get("results"),
        }
        for entry in newest_first(entries)
    ]


def newest_first(entries: Sequence[ModelEntry]) -> list[ModelEntry]:
    """Sorts models by time of writing, the newest first, then by name."""
    return sorted(entries, key=lambda entry: (-entry.modified, entry.name))
