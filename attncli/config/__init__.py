"""The configs: the shape of a model, the text to train on, the training run, the sampling, the generation.

A config is a frozen dataclass and needs no torch. Each field declares the help, the name and the limits of its option
(option.py), so that the command line, `generate -i` and errors agree. None always means "chosen automatically", and the
help says how.
"""

from attncli.config.corpus import TOKENIZER_KINDS, CorpusConfig, TokenizerKind
from attncli.config.engine import EngineConfig
from attncli.config.limits import alternatives, require, shown_value
from attncli.config.model import Activation, ModelConfig, RopeScaling, shape_from_json, shape_to_json
from attncli.config.sampling import SampleConfig, draw_seed
from attncli.config.training import (
    DEFAULT_TRAINING_SECONDS,
    DEVICES,
    OPTIMIZER_KINDS,
    SIZES,
    TRAIN_DTYPES,
    OptimizerKind,
    TrainConfig,
    parse_size,
)

__all__ = [
    "DEFAULT_TRAINING_SECONDS",
    "DEVICES",
    "OPTIMIZER_KINDS",
    "SIZES",
    "TOKENIZER_KINDS",
    "TRAIN_DTYPES",
    "Activation",
    "CorpusConfig",
    "EngineConfig",
    "ModelConfig",
    "OptimizerKind",
    "RopeScaling",
    "SampleConfig",
    "TokenizerKind",
    "TrainConfig",
    "alternatives",
    "draw_seed",
    "parse_size",
    "require",
    "shape_from_json",
    "shape_to_json",
    "shown_value",
]
