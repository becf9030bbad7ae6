"""What can be chosen: the shape of a model, the text to train on, the training, the sampling.

Frozen dataclasses without torch, each with its defaults and limits. None always means "chosen for you"; the help text
of the option says from what.
"""

from attncli.config.corpus import TOKENIZER_KINDS, CorpusConfig, TokenizerKind
from attncli.config.limits import require, shown_value
from attncli.config.model import Activation, ModelConfig, RopeScaling, shape_from_json, shape_to_json
from attncli.config.sampling import SAMPLING_OFF, SampleConfig
from attncli.config.training import (
    DEFAULT_TRAINING_SECONDS,
    OPTIMIZER_KINDS,
    SIZES,
    TRAIN_DTYPES,
    OptimizerKind,
    TrainConfig,
    parse_size,
)

__all__ = [
    "DEFAULT_TRAINING_SECONDS",
    "OPTIMIZER_KINDS",
    "SAMPLING_OFF",
    "SIZES",
    "TOKENIZER_KINDS",
    "TRAIN_DTYPES",
    "Activation",
    "CorpusConfig",
    "ModelConfig",
    "OptimizerKind",
    "RopeScaling",
    "SampleConfig",
    "TokenizerKind",
    "TrainConfig",
    "parse_size",
    "require",
    "shape_from_json",
    "shape_to_json",
    "shown_value",
]
