"""TrainConfig: the settings of a training run that a user may set. Only this file defines their defaults and limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attncli.config.limits import FINITE_ABOVE_0, FINITE_FROM_0, Limit, at_least, is_whole, one_of
from attncli.config.lora import ALPHAS, LARGEST_RANK, LORA_TARGETS, LoraConfig, LoraTargets
from attncli.config.option import check, option, option_from
from attncli.config.sampling import SampleConfig
from attncli.config.values import COUNT, SECONDS
from attncli.errors import Naming, UsageProblem

OptimizerKind = Literal["muon", "adamw"]
OPTIMIZER_KINDS: tuple[OptimizerKind, ...] = ("muon", "adamw")
TRAIN_DTYPES = ("float32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda", "mps")
DEFAULT_TRAINING_SECONDS = 300.0
_SEED = "The random seed: the same seed and number of steps give the same weights. Unset: a new seed, which is printed."
# Layers and width of each named size. Unless a size is given, the plan chooses one by the time and the machine.
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

_LENGTH, _MODEL, _RECIPE = "How long (one of these)", "The model", "How it learns"
_LENGTHS = ("seconds", "steps", "epochs", "tokens")
_LARGEST_RATE = 1e36  # a larger rate overflows float32
_RATE = Limit(f"above 0 and at most {_LARGEST_RATE:g}", lambda rate: 0 < rate <= _LARGEST_RATE)
_DTYPES = ("auto", *TRAIN_DTYPES)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The settings of a training run that a user may set; the plan chooses every field that is None."""

    seconds: float | None = option(  # wall-clock time, from the start of the command
        None,
        f"Total time, such as 90s, 5m or 1h. Unset: {DEFAULT_TRAINING_SECONDS / 60:.0f}m.",
        "--time",
        format=SECONDS,
        limit=FINITE_ABOVE_0,
        panel=_LENGTH,
    )
    steps: int | None = option(None, "Number of training steps.", format=COUNT, limit=at_least(1), panel=_LENGTH)
    epochs: float | None = option(
        None, "Number of passes over the text or the pairs.", limit=FINITE_ABOVE_0, panel=_LENGTH, rare=True
    )
    tokens: int | None = option(
        None,
        "Number of tokens to train on, counting repeats; of pairs, target tokens.",
        format=COUNT,
        limit=at_least(1),
        panel=_LENGTH,
        rare=True,
    )
    size: str | None = option(
        None,
        f"{', '.join(SIZES)}, or LAYERSxWIDTH such as 6x384; for pairs, the layers of each stack. Unset: "
        "chosen by the time and the machine.",
        suggestions=tuple(SIZES),
        panel=_MODEL,
    )
    context: int | None = option(
        None,
        "The context window in tokens. Unset: chosen by the time and the text.",
        format=COUNT,
        limit=at_least(8),
        panel=_MODEL,
    )
    batch_size: int | None = option(  # windows of all micro-batches of a step together
        None,
        "Batch size of a step: windows of a text, or tokens of both sides of pairs, padding included. Unset: chosen by "
        "the device and the length of the run.",
        format=COUNT,
        limit=at_least(1),
        panel=_RECIPE,
        rare=True,
    )
    grad_accum: int | None = option(
        None,
        "Gradient accumulation: split each batch into N micro-batches, to save memory. Unset: chosen by the memory.",
        format=COUNT,
        limit=at_least(1),
        panel=_RECIPE,
        rare=True,
    )
    checkpoint_activations: bool | None = option(
        None,
        "Recompute activations in the backward pass to save memory, or keep them. Unset: chosen by the memory.",
        "--checkpoint-activations/--keep-activations",
        panel=_RECIPE,
        rare=True,
    )
    lora: int | None = option(
        None,
        "With --from: train LoRA adapters of this rank alone, and save them in the format of PEFT. Unset: train every "
        "weight.",
        metavar="RANK",
        limit=Limit(
            f"a whole number from 1 to {LARGEST_RANK:,}", lambda rank: is_whole(rank) and 1 <= rank <= LARGEST_RANK
        ),
        panel=_MODEL,
    )
    lora_targets: LoraTargets | None = option(
        None,
        "With --lora: the matrices that get adapters, those of attention or also those of the feed-forward part. "
        "Unset: all.",
        choices=LORA_TARGETS,
        panel=_MODEL,
        rare=True,
    )
    lora_alpha: float | None = option(
        None,
        "With --lora: the adapters are scaled by ALPHA / RANK. Unset: twice the rank.",
        metavar="ALPHA",
        limit=Limit("a number above 0 and at most 1e6", lambda alpha: 0 < alpha <= ALPHAS[1]),
        panel=_MODEL,
        rare=True,
    )
    rslora: bool = option(
        False, "With --lora: scale the adapters by ALPHA / sqrt(RANK), as rsLoRA does.", panel=_MODEL, rare=True
    )
    optimizer: OptimizerKind | None = option(
        None, "The optimizer. Unset: muon, or adamw with --from.", choices=OPTIMIZER_KINDS, panel=_RECIPE, rare=True
    )
    lr: float | None = option(
        None,
        "Peak learning rate of the matrices. Unset: chosen by the optimizer and the length of the run.",
        limit=_RATE,
        panel=_RECIPE,
        rare=True,
    )
    adam_lr: float | None = option(
        None,
        "With muon: peak learning rate of embeddings and norms, which AdamW updates. Unset: by the length of the run.",
        limit=_RATE,
        panel=_RECIPE,
        rare=True,
    )
    weight_decay: float | None = option(
        None,
        "Weight decay of matrices and embeddings. Unset: chosen by the number of epochs.",
        limit=FINITE_FROM_0,
        panel=_RECIPE,
        rare=True,
    )
    dropout: float | None = option(
        None,
        "Dropout rate. Unset: chosen by the number of epochs.",
        limit=Limit("from 0 to below 1", lambda share: 0 <= share < 1),
        panel=_RECIPE,
        rare=True,
    )
    label_smoothing: float | None = option(
        None,
        "Label smoothing, for pairs: the share of probability that is spread over the vocabulary. Unset: 0.1.",
        limit=Limit("from 0 to below 1", lambda share: 0 <= share < 1),
        panel=_RECIPE,
        rare=True,
    )
    compile: bool | None = option(
        None, "Use torch.compile. Unset: chosen by the device and the time.", panel=_RECIPE, rare=True
    )
    seed: int = option_from(SampleConfig, "seed", help=_SEED)
    device: str = option(
        "auto", "auto, cpu, cuda or mps; auto is the fastest available device.", suggestions=DEVICES, rare=True
    )
    dtype: str = option(
        "auto",
        "auto, float32 or bfloat16; auto is bfloat16 on CUDA and on CPUs with bfloat16 instructions, else float32.",
        suggestions=_DTYPES,
        limit=one_of(_DTYPES),
        rare=True,
    )
    save_dtype: str = option(  # resuming does not depend on it: the state has the exact weights
        "float32",
        "Type of the saved weights; bfloat16 halves the size of the file.",
        choices=TRAIN_DTYPES,
        panel=_MODEL,
        rare=True,
    )

    def __post_init__(self) -> None:
        check(self)
        if len([name for name in _LENGTHS if getattr(self, name) is not None]) > 1:
            raise UsageProblem.naming(_one_length)
        if self.optimizer == "adamw" and self.adam_lr is not None:
            raise UsageProblem.naming(_no_second_rate)
        self._refuse_without_lora()
        batch, parts = self.batch_size, self.grad_accum
        if batch is not None and parts is not None and batch < parts:
            raise UsageProblem.naming(
                lambda name: (
                    f"{name('grad_accum')} {parts} is more than {name('batch_size')} {batch}.",
                    "The batch of a step is split, and each micro-batch needs at least one window.",
                )
            )
        if self.size is not None:
            parse_size(self.size)

    def _refuse_without_lora(self) -> None:
        """Raises UsageProblem for a setting of adapters without `lora`, and for Muon with it."""
        if self.lora is not None:
            if self.optimizer == "muon":
                raise UsageProblem.naming(
                    lambda name: (f"{name('lora')} trains adapters with AdamW.", f"Leave {name('optimizer')} out.")
                )
            return
        given = next((field for field in ("lora_targets", "lora_alpha", "rslora") if getattr(self, field)), None)
        if given is not None:
            raise UsageProblem.naming(
                lambda name: (
                    f"{name(given)} is for adapters, which {name('lora')} trains.",
                    f"Add {name('lora')} 16, or leave {name(given)} out.",
                )
            )

    @property
    def adapters(self) -> LoraConfig | None:
        """The adapters to train; None if every weight is trained."""
        if self.lora is None:
            return None
        alpha = 2.0 * self.lora if self.lora_alpha is None else float(self.lora_alpha)
        return LoraConfig(rank=self.lora, alpha=alpha, targets=self.lora_targets or "all", rslora=self.rslora)

    @property
    def timed(self) -> bool:
        """Whether the run is limited by time: neither steps, epochs nor tokens are set."""
        return self.steps is None and self.epochs is None and self.tokens is None


def _one_length(name: Naming) -> tuple[str, str]:
    *others, last = map(name, _LENGTHS)
    return f"{', '.join(others)} and {last} each set the length of training.", "Give one of them."


def _no_second_rate(name: Naming) -> tuple[str, str]:
    return (f"{name('adam_lr')} is for {name('optimizer')} muon only.", f"With adamw, give {name('lr')} only.")


def parse_size(size: str) -> tuple[int, int]:
    """Returns layers and width: 'small' -> (4, 128); '6x384' -> (6, 384). Raises UsageProblem for any other text."""
    if size in SIZES:
        return SIZES[size]
    layers, _, width = str(size).lower().partition("x")
    if layers.isascii() and layers.isdigit() and width.isascii() and width.isdigit():
        shape = (int(layers[:9]), int(width[:9]))
        if 1 <= shape[0] <= 1000 and 32 <= shape[1] <= 65536 and shape[1] % 32 == 0:
            return shape
    raise UsageProblem.naming(
        lambda name: (
            f"{name('size')} {size!r} is not a size.",
            f"Use one of {', '.join(SIZES)}, or LAYERSxWIDTH such as 6x384; the width must be a multiple of 32.",
        )
    )
