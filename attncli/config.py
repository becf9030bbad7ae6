"""What can be chosen: the shape of a model, the training of one, the sampling from one.

Owns every default, once, and the limits a value must keep. Frozen records only; no torch.
None always means "chosen for you"; the help text of the option says from what.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from attncli.errors import UsageProblem

Norm = Literal["rms", "layer"]
Positions = Literal["rotary", "learned"]
RopeKind = Literal["linear", "llama3", "yarn"]
Activation = Literal["swiglu", "gelu"]
TokenizerKind = Literal["bpe", "char", "byte"]
OptimizerKind = Literal["muon", "adamw"]

TOKENIZER_KINDS: tuple[TokenizerKind, ...] = ("bpe", "char", "byte")
OPTIMIZER_KINDS: tuple[OptimizerKind, ...] = ("muon", "adamw")
TRAIN_DTYPES = ("float32", "bfloat16")
DEFAULT_TRAINING_SECONDS = 300.0

# Far above any model that fits a machine, far below what would exhaust one while only counting, or the 32-bit
# integers of the network in C.
_LARGEST = {"layers": 1_000, "context": 1 << 24, "vocab_size": 1 << 24}
_LARGEST_DIMENSION = 1 << 20
_NORM_EPS = (1e-30, 1e6)
_ROPE_NUMBERS = (1e-9, 1e9)  # frequencies, and angles at the largest position, stay finite in float32
_ROPE_THETA = (1e-9, 1e30)
_LEAST_YARN_THETA = 1.01  # the formulas divide by its logarithm
_MOST_SAMPLES = 10_000
_LARGEST_RATE = 1e36  # what float32 holds
_LARGEST_ADDED = 1_000_000  # to a logit, either way; beyond, float32 would round away the logit itself
_LONGEST_SHOWN = 10**40
_MOST_SHOWN = 60  # characters
_ADDABLE = f"from {-_LARGEST_ADDED:,} to {_LARGEST_ADDED:,}"


def require(ok: bool, name: str, value: object, rule: str) -> None:
    """Raises UsageProblem, naming the value and the rule, unless it is `ok`."""
    if not ok:
        raise UsageProblem(f"{name} is {shown_value(value)}, and must be {rule}.")


def shown_value(value: object) -> str:
    """A value for an error message, shortened; also an integer of more digits than Python converts to text."""
    if isinstance(value, int) and abs(value) > _LONGEST_SHOWN:
        return "an integer of over 40 digits"
    return ascii(value) if len(ascii(value)) <= _MOST_SHOWN else f"{ascii(value)[:_MOST_SHOWN]}…"


def _require_whole(name: str, value: object, least: int, most: int) -> None:
    fits = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    require(fits, name, value, f"a whole number from {least} to {most:,}")


def _require_between(name: str, value: object, limits: tuple[float, float]) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    least, most = limits
    fits = number and least <= value <= most  # type: ignore[operator]
    require(fits, name, value, f"a number from {least:g} to {most:g}")


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are slowed so that a model reads further than it was first trained to.

    `linear` divides all of them by `factor`; `llama3` and `yarn` only the slow ones, which turn less than once or so
    in `original_context`. The formulas are with `model.attention.rotary_frequencies`.
    """

    kind: RopeKind
    factor: float
    original_context: int | None = None  # tokens; of llama3 and yarn
    low_frequency: float = 1.0  # llama3: what turns less often than this is slowed by all of the factor
    high_frequency: float = 4.0  # llama3: what turns more often than this stays as it is
    beta_slow: float = 1.0  # yarn: the same
    beta_fast: float = 32.0  # yarn: likewise
    truncate: bool = True  # yarn: the borders fall between two frequencies
    attention_factor: float = 1.0  # of cosines and sines, so that scores are multiplied by its square

    def __post_init__(self) -> None:
        require(self.kind in ("linear", "llama3", "yarn"), "rope type", self.kind, "'linear', 'llama3' or 'yarn'")
        for name in ("factor", "low_frequency", "high_frequency", "beta_slow", "beta_fast", "attention_factor"):
            _require_between(f"rope {name}", getattr(self, name), _ROPE_NUMBERS)
        if self.kind != "linear":
            _require_whole("rope original_context", self.original_context, 1, _LARGEST["context"])
        if self.kind == "llama3":
            low, high = self.low_frequency, self.high_frequency
            require(low < high, "rope high_frequency", high, f"above low_frequency ({low})")
        require(isinstance(self.truncate, bool), "rope truncate", self.truncate, "true or false")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a decoder-only transformer.

    The defaults are the shape the field calls Qwen3. Llama is `qk_norm=False`; Mistral also sets `window`;
    Qwen2 is `qk_norm=False, qkv_bias=True`; GPT-2 is `norm="layer", positions="learned",
    activation="gelu", bias=True, qk_norm=False`.
    """

    vocab_size: int  # V
    layers: int
    width: int  # C, the residual stream
    heads: int  # H, query heads
    kv_heads: int  # K, key/value heads; H is a multiple of it
    head_width: int  # D
    feed_forward_width: int
    context: int  # the most tokens that one forward pass may see
    norm: Norm = "rms"
    norm_eps: float = 1e-6
    positions: Positions = "rotary"
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    activation: Activation = "swiglu"
    qk_norm: bool = True
    qkv_bias: bool = False
    attention_bias: bool = False  # on all four matrices of attention
    feed_forward_bias: bool = False
    bias: bool = False  # on every linear layer, LayerNorm included
    window: int | None = None  # a query sees this many tokens, itself included
    window_from: int = 0  # layers before this one see everything
    tied: bool = True  # the head reuses the token embedding

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "layers",
            "width",
            "heads",
            "kv_heads",
            "head_width",
            "feed_forward_width",
            "context",
        ):
            _require_whole(name, getattr(self, name), 1, _LARGEST.get(name, _LARGEST_DIMENSION))
        _require_whole("heads x head_width", self.heads * self.head_width, 1, _LARGEST_DIMENSION)
        require(self.heads % self.kv_heads == 0, "kv_heads", self.kv_heads, f"a divisor of heads ({self.heads})")
        require(self.norm in ("rms", "layer"), "norm", self.norm, "'rms' or 'layer'")
        require(self.positions in ("rotary", "learned"), "positions", self.positions, "'rotary' or 'learned'")
        require(self.activation in ("swiglu", "gelu"), "activation", self.activation, "'swiglu' or 'gelu'")
        if self.positions == "rotary":
            require(self.head_width % 2 == 0, "head_width", self.head_width, "even, for rotary positions")
        for name in ("qk_norm", "qkv_bias", "attention_bias", "feed_forward_bias", "bias", "tied"):
            require(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false")
        _require_between("norm_eps", self.norm_eps, _NORM_EPS)
        _require_between("rope_theta", self.rope_theta, _ROPE_THETA)
        if self.rope_scaling is not None:
            require(self.positions == "rotary", "rope_scaling", self.rope_scaling, "unset for learned positions")
            if self.rope_scaling.kind == "yarn":
                least = _LEAST_YARN_THETA
                require(self.rope_theta >= least, "rope_theta", self.rope_theta, f"at least {least} for yarn")
        if self.window is not None:
            _require_whole("window", self.window, 1, _LARGEST["context"])
        _require_whole("window_from", self.window_from, 0, _LARGEST["layers"])

    @property
    def biased_inputs(self) -> bool:
        """Whether the query, key and value matrices have biases."""
        return self.bias or self.attention_bias or self.qkv_bias

    @property
    def biased_output(self) -> bool:
        """Whether the output matrix of attention has one."""
        return self.bias or self.attention_bias

    @property
    def biased_feed_forward(self) -> bool:
        """Whether the matrices of the feed-forward part have biases."""
        return self.bias or self.feed_forward_bias

    def window_of(self, layer: int) -> int | None:
        """The attention window of a layer (0-based): how many tokens a query sees, or None for all."""
        return self.window if layer >= self.window_from else None


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """How text becomes tokens to train on; None leaves the vocabulary to the amount of text."""

    tokenizer: TokenizerKind = "bpe"
    vocab_size: int | None = None
    val_fraction: float = 0.1  # of the characters, at the end
    encoding: str = "utf-8"
    most_characters: int | None = None  # of either part; of a larger one only passages spread over it are used

    def __post_init__(self) -> None:
        require(0 < self.val_fraction <= 0.5, "--val-fraction", self.val_fraction, "above 0 and at most 0.5")
        most = self.most_characters
        require(most is None or most >= 1, "most_characters", most, "at least 1")
        try:
            "".encode(self.encoding)
        except (LookupError, ValueError):  # also for a NUL in the name
            raise UsageProblem(
                f"--encoding {self.encoding!r} is not an encoding that Python knows.", "Try latin-1, cp1252 or utf-16."
            ) from None


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
            require(value is None or value >= least, _option(name), value, f"at least {least}")
        for name in ("seconds", "epochs", "lr", "adam_lr"):
            value = getattr(self, name)
            require(value is None or _positive(value), _option(name), value, "a finite number above 0")
        for name, rate in (("lr", self.lr), ("adam_lr", self.adam_lr)):
            require(rate is None or rate <= _LARGEST_RATE, _option(name), rate, f"at most {_LARGEST_RATE:g}")
        require(self.dropout is None or 0 <= self.dropout < 1, "--dropout", self.dropout, "from 0 to below 1")
        decay = self.weight_decay
        require(decay is None or decay == 0 or _positive(decay), "--weight-decay", decay, "a finite number, 0 or above")
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


SAMPLING_OFF: dict[str, Any] = {  # where a step of drawing does nothing
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical": 1.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "logit_bias": (),
    "stop": (),
}


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How the next token is drawn from the model's distribution."""

    temperature: float = 1.0  # 0 takes the most probable token
    top_k: int = 0  # 0 keeps all
    top_p: float = 1.0  # 1 keeps all
    min_p: float = 0.05  # 0 keeps all; this much takes away what a small model spells wrong (benchmarks/README.md)
    typical: float = 1.0  # 1 keeps all
    repetition_penalty: float = 1.0  # 1 changes nothing
    presence_penalty: float = 0.0  # 0 changes nothing
    logit_bias: tuple[tuple[int, float], ...] = ()  # token ids, and what is added to the logit of each; -inf bans
    max_new_tokens: int = 200
    num_samples: int = 1
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        finite = math.isfinite(self.temperature) and self.temperature >= 0
        require(finite, "--temperature", self.temperature, "a finite number, 0 or above")
        require(self.top_k >= 0, "--top-k", self.top_k, "0 (off) or above")
        require(0 < self.top_p <= 1, "--top-p", self.top_p, "above 0 and at most 1 (off)")
        require(0 <= self.min_p <= 1, "--min-p", self.min_p, "from 0 (off) to 1")
        require(0 < self.typical <= 1, "--typical", self.typical, "above 0 and at most 1 (off)")
        require(
            _positive(self.repetition_penalty), "--repetition-penalty", self.repetition_penalty, "above 0 (1 is off)"
        )
        require(_addable(self.presence_penalty), "--presence-penalty", self.presence_penalty, _ADDABLE)
        for id_, bias in self.logit_bias:
            require(id_ >= 0, "--logit-bias", f"#{id_}", "of a token, #0 or above")
            require(bias == -math.inf or _addable(bias), "--logit-bias", bias, f"-inf (a ban) or {_ADDABLE}")
        ids = [id_ for id_, _ in self.logit_bias]
        for id_ in ids:
            if ids.count(id_) > 1:
                raise UsageProblem(f"--logit-bias names the token #{id_} twice.", "Give one number for each token.")
        require(self.max_new_tokens >= 1, "--max-new-tokens", self.max_new_tokens, "at least 1")
        most = _MOST_SAMPLES
        require(1 <= self.num_samples <= most, "--num-samples", self.num_samples, f"from 1 to {most:,}")
        require(all(self.stop), "--stop", "", "at least one character")
        require(0 <= self.seed < 2**63, "--seed", self.seed, "from 0 to 2^63 - 1")

    @classmethod
    def chosen(cls, **options: Any) -> Self:
        """A config from options of which None means the default of this class."""
        known = {field.name for field in fields(cls)}
        assert set(options) <= known
        return cls(**{name: value for name, value in options.items() if value is not None})


def _positive(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < 1e300  # type: ignore[operator]


def _addable(value: float) -> bool:
    return -_LARGEST_ADDED <= value <= _LARGEST_ADDED


def _option(name: str) -> str:
    return {"seconds": "--time"}.get(name, "--" + name.replace("_", "-"))
