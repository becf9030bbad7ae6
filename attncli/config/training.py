"""TrainConfig: what a user may pin about a training run. Every default and limit stands here once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attncli.config.limits import is_positive, option_of, require
from attncli.errors import UsageProblem

OptimizerKind = Literal["muon", "adamw"]
OPTIMIZER_KINDS: tuple[OptimizerKind, ...] = ("muon", "adamw")
TRAIN_DTYPES = ("float32", "bfloat16")
DEFAULT_TRAINING_SECONDS = 300.0
_LARGEST_RATE = 1e36  # what float32 holds


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a user may pin about a training run; None is left to the plan."""

    seconds: float | None = None  # wall clock from start to end; the default when no length is given
    steps: int | None = None
    epochs: float | None = None
    tokens: int | None = None  # to train on in all, those seen again included
    size: str | None = None  # a name of SIZES or LAYERSxWIDTH
    context: int | None = None
    batch_size: int | None = None  # windows in a step, all parts of it together
    grad_accum: int | None = None  # parts of a step, computed one after another
    checkpoint_activations: bool | None = None  # compute activations again in the backward pass instead of keeping them
    optimizer: OptimizerKind | None = None
    lr: float | None = None  # of the matrices
    adam_lr: float | None = None  # of the rest when the optimizer is Muon
    weight_decay: float | None = None
    dropout: float | None = None
    compile: bool | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    save_dtype: str = "float32"  # of the finished model's weights; what a run is resumed from is exact

    def __post_init__(self) -> None:
        lengths = [name for name in ("seconds", "steps", "epochs", "tokens") if getattr(self, name) is not None]
        if len(lengths) > 1:
            raise UsageProblem(
                "--time, --steps, --epochs and --tokens each set the length of training.", "Give one of them."
            )
        for name, least in (("steps", 1), ("tokens", 1), ("context", 8), ("batch_size", 1), ("grad_accum", 1)):
            value = getattr(self, name)
            require(value is None or value >= least, option_of(name), value, f"at least {least}")
        for name in ("seconds", "epochs", "lr", "adam_lr"):
            value = getattr(self, name)
            require(value is None or is_positive(value), option_of(name), value, "a finite number above 0")
        for name, rate in (("lr", self.lr), ("adam_lr", self.adam_lr)):
            require(rate is None or rate <= _LARGEST_RATE, option_of(name), rate, f"at most {_LARGEST_RATE:g}")
        require(self.dropout is None or 0 <= self.dropout < 1, "--dropout", self.dropout, "from 0 to below 1")
        decay = self.weight_decay
        require(
            decay is None or decay == 0 or is_positive(decay), "--weight-decay", decay, "a finite number, 0 or above"
        )
        require(0 <= self.seed < 2**63, "--seed", self.seed, "from 0 to 2^63 - 1")
        require(self.dtype in ("auto", *TRAIN_DTYPES), "--dtype", self.dtype, f"auto, {' or '.join(TRAIN_DTYPES)}")
        require(self.save_dtype in TRAIN_DTYPES, "--save-dtype", self.save_dtype, " or ".join(TRAIN_DTYPES))
        kinds = (None, *OPTIMIZER_KINDS)
        require(self.optimizer in kinds, "--optimizer", self.optimizer, " or ".join(OPTIMIZER_KINDS))
        if self.optimizer == "adamw" and self.adam_lr is not None:
            raise UsageProblem(
                "--adam-lr is the second rate beside Muon's.", "With --optimizer adamw, give --lr alone."
            )
        if self.batch_size is not None and self.grad_accum is not None and self.batch_size < self.grad_accum:
            raise UsageProblem(
                f"--grad-accum {self.grad_accum} parts cannot be made of --batch-size {self.batch_size}.",
                "The batch is that of the whole step: give at least one window for each part.",
            )
        if self.size is not None:
            parse_size(self.size)

    @property
    def timed(self) -> bool:
        """Whether the length is a time, given or not."""
        return self.steps is None and self.epochs is None and self.tokens is None


# Layers and width of each size; `training.plan` picks one by what the machine can train in the time given.
SIZES: dict[str, tuple[int, int]] = {
    "nano": (2, 64),
    "tiny": (2, 128),
    "small": (4, 128),
    "base": (4, 192),
    "medium": (6, 256),
    "large": (6, 384),
    "xl": (8, 512),
    "xxl": (12, 768),
}


def parse_size(size: str) -> tuple[int, int]:
    """'small' -> (4, 128); '6x384' -> (6, 384). Raises UsageProblem for anything else."""
    if size in SIZES:
        return SIZES[size]
    layers, _, width = size.lower().partition("x")
    if layers.isascii() and layers.isdigit() and width.isascii() and width.isdigit():
        shape = (int(layers[:9]), int(width[:9]))
        if 1 <= shape[0] <= 1000 and 32 <= shape[1] <= 65536 and shape[1] % 32 == 0:
            return shape
    raise UsageProblem(
        f"--size {size!r} is not a size.",
        f"Use one of {', '.join(SIZES)}, or LAYERSxWIDTH such as 6x384, the width a multiple of 32.",
    )
