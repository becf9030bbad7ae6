"""Reads and writes `adapter_config.json`, the settings of a LoRA adapter in the format of PEFT.

The file is untrusted, and PEFT has many kinds of adapters. So every setting is either read, or known to change no
logits, or refused by its name if it is set. Patterns are compared as names and never run as regular expressions,
because a hostile expression can take forever. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from attncli.config import shown_value
from attncli.config.limits import require_between, require_whole
from attncli.config.lora import ALPHAS, LARGEST_RANK, LoraConfig, lora_scale
from attncli.errors import BadCheckpoint, UsageProblem

_READ = frozenset(
    {"peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "rank_pattern", "alpha_pattern"}
    | {"base_model_name_or_path", "bias", "init_lora_weights"}
)
# Settings that do not change the logits of a finished adapter. They are records or settings of training, or they
# exclude modules, and an excluded module has no weights in the file.
_HARMLESS = frozenset(
    {"auto_mapping", "revision", "task_type", "inference_mode", "peft_version", "lora_dropout", "fan_in_fan_out"}
    | {"exclude_modules", "layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size"}
    | {"eva_config", "ensure_weight_tying"}
)
_INITIALIZATIONS = (True, False, "gaussian", "eva", "orthogonal")  # the others also change the weights of the model
_NAME = re.compile(r"[\w.-]+")
_MERGE = "Merge it with peft: merge_and_unload(), then save_pretrained(DIR), and give DIR as the model."


@dataclass(frozen=True)
class AdapterConfig:
    """The settings of an adapter that its weights depend on."""

    rank: int
    alpha: float
    rslora: bool = False
    targets: tuple[str, ...] | None = None  # the ends of the names of the modules; None: a pattern, which is not read
    base: str | None = None  # the name or the path of the model that the adapter was trained for
    ranks: tuple[tuple[str, int], ...] = ()  # ends of names, and the rank of the modules with the first end that fits
    alphas: tuple[tuple[str, float], ...] = ()

    def rank_of(self, module: str) -> int:
        """Returns the rank of a module."""
        return next((rank for end, rank in self.ranks if ends_with(module, end)), self.rank)

    def scale_of(self, module: str) -> float:
        """Returns the factor of B A of a module."""
        alpha = next((alpha for end, alpha in self.alphas if ends_with(module, end)), self.alpha)
        return lora_scale(alpha, self.rank_of(module), rslora=self.rslora)

    def is_target(self, module: str) -> bool:
        """Whether `target_modules` contains a module."""
        return self.targets is None or any(ends_with(module, end) for end in self.targets)


def ends_with(module: str, end: str) -> bool:
    """Whether the last parts of a module's name are `end`: 'layers.0.self_attn.q_proj' ends with 'q_proj'."""
    return module == end or module.endswith(f".{end}")


def read_adapter_config(described: Mapping[str, Any], where: str) -> AdapterConfig:
    """Returns the settings in an `adapter_config.json`. `where` is the path of the file, for errors.

    Raises BadCheckpoint for another kind of adapter, for a setting that is not supported, and for an impossible value.
    """
    kind = described.get("peft_type")
    if kind != "LORA":
        shown = "missing" if kind is None else shown_value(kind)
        raise BadCheckpoint(f"{where}: peft_type is {shown}, and attncli reads LORA only.", _MERGE)
    start = described.get("init_lora_weights", True)
    if not any(start is known or (isinstance(start, str) and start == known) for known in _INITIALIZATIONS):
        raise _unsupported(where, "init_lora_weights", start)
    if described.get("bias", "none") != "none":
        raise _unsupported(where, "bias", described["bias"])
    for name, value in described.items():
        if name not in _READ and name not in _HARMLESS and value:
            raise _unsupported(where, name, value)
    rslora, base = described.get("use_rslora") or False, described.get("base_model_name_or_path")
    for name, value, kind in (("use_rslora", rslora, bool), ("base_model_name_or_path", base, str | None)):
        if not isinstance(value, kind):
            raise _unsupported(where, name, value)
    try:
        require_whole("r", described.get("r"), 1, LARGEST_RANK)
        require_between("lora_alpha", described.get("lora_alpha"), ALPHAS)
        ranks, alphas = (_pattern(described, name, where) for name in ("rank_pattern", "alpha_pattern"))
        for end, rank in ranks:
            require_whole(f"rank_pattern {end}", rank, 1, LARGEST_RANK)
        for end, alpha in alphas:
            require_between(f"alpha_pattern {end}", alpha, ALPHAS)
    except UsageProblem as problem:
        raise BadCheckpoint(f"{where}: {problem.message}") from None
    targets = _targets(described.get("target_modules"), where)
    return AdapterConfig(described["r"], described["lora_alpha"], rslora, targets, base or None, ranks, alphas)


def _unsupported(where: str, name: str, value: object) -> BadCheckpoint:
    shown = shown_value(name)[1:-1]
    return BadCheckpoint(f"{where}: {shown} is {shown_value(value)}, which is not supported.", _MERGE)


def _pattern(described: Mapping[str, Any], name: str, where: str) -> tuple[tuple[str, Any], ...]:
    """Returns a setting that maps the ends of names to values. Raises BadCheckpoint for a regular expression."""
    pattern = described.get(name) or {}
    if not isinstance(pattern, dict):
        raise _unsupported(where, name, pattern)
    for end in pattern:
        if not _NAME.fullmatch(end):
            raise BadCheckpoint(f"{where}: {name} has {shown_value(end)}, a regular expression.", _MERGE)
    return tuple(pattern.items())


def _targets(targets: object, where: str) -> tuple[str, ...] | None:
    """Returns the names in `target_modules`; None for a text, which is a regular expression or 'all-linear'."""
    if isinstance(targets, str):
        return None
    if isinstance(targets, list) and targets and all(isinstance(name, str) for name in targets):
        return tuple(targets)
    raise BadCheckpoint(f"{where}: target_modules is {shown_value(targets)}, and must be a list of names.")


def adapter_config_to_json(
    lora: LoraConfig, modules: Iterable[str], others: Iterable[str], base: str, *, encodes: bool, transposed: bool
) -> dict[str, Any]:
    """Returns the content of `adapter_config.json` for adapters of `modules`.

    Args:
        lora: the rank and the scale.
        modules: the names of the modules with an adapter.
        others: the names of the model's other modules.
        base: the name or the path of the model.
        encodes: whether the model is an encoder-decoder.
        transposed: whether the family stores the matrices transposed.
    """
    alpha = int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM" if encodes else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": alpha,
        "use_rslora": lora.rslora,
        "target_modules": _short(modules, others),
        "fan_in_fan_out": transposed,
        "bias": "none",
        "lora_dropout": 0.0,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _short(modules: Iterable[str], others: Iterable[str]) -> list[str]:
    """Returns the shortest ends of names that all `modules` have and none of the `others`: 'q_proj', 'attn.c_proj'."""
    others, found = list(others), set()
    for module in modules:
        parts = module.split(".")
        ends = (".".join(parts[at:]) for at in range(len(parts) - 1, -1, -1))
        found.add(next(end for end in ends if not any(ends_with(other, end) for other in others)))
    return sorted(found)
