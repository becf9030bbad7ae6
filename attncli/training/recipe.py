"""The training recipe: every constant of training, and where it was measured.

"recipe" in a comment means a table in the section "The recipe" of benchmarks/README.md; other sections are named in
full. Some constants are used by the plan to choose settings (`step_setup`, `shapes`, `memory`, `budget`, `rates`), the
others by the optimizer and the loop. The vocabulary size is chosen by `text.corpus.default_vocab_size`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from attncli.config import OptimizerKind

# Optimizer. Muon updates the matrices of the blocks, AdamW all other parameters (recipe, first table).
OPTIMIZER: OptimizerKind = "muon"  # reaches 1.417 nats per character; AdamW on every parameter reaches 1.537
FINE_TUNING_OPTIMIZER: OptimizerKind = "adamw"
MUON_LR = 0.03  # between 0.02 and 0.04, recipe, first table
MUON_MOMENTUM = 0.95  # Nesterov momentum; Jordan et al., 2024
# Newton-Schulz iterations of Muon: the coefficients a, b, c of x -> a x + b x^3 + c x^5, one row per step. They are the
# first three steps of the Polar Express (Amsel et al., 2025); five steps train no better (recipe, second table).
NEWTON_SCHULZ_STEPS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
)
# A matrix is divided by its norm times this margin, since singular values above 1 may make the polynomials diverge.
NEWTON_SCHULZ_MARGIN = 1.02
ADAMW_LR = 0.003  # with AdamW alone and beside Muon; recipe, first table
ADAMW_BETAS = (0.9, 0.95)  # usual values for language models; not measured here
ADAMW_EPSILON = 1e-8  # Kingma and Ba, 2015
LARGEST_GRADIENT_NORM = 1.0  # larger gradients are clipped to this norm; a usual value, not measured here

# Fine-tuning: a tenth of the rates, so that the model forgets little of its first training text. Not measured.
FINE_TUNING_ADAMW_LR = 3e-4
FINE_TUNING_MUON_LR = 3e-3
LORA_LR = 3e-3  # adapters need about ten times the rate of full fine-tuning (Schulman et al., 2025)

# Schedule, whose shape is in schedule.py (recipe, last table).
WARMUP_SHARE = 0.05  # the share of the steps; not measured
# MUON_LR and ADAMW_LR are tuned for this many training tokens. A shorter run multiplies them by the square root of
# TUNED_TOKENS / tokens, at most by the factors below: to 0.05 and 0.01 (recipe, table of 180,000 to 220,000 tokens).
TUNED_TOKENS = 1_500_000
LARGEST_MUON_FACTOR = 5 / 3
LARGEST_ADAMW_FACTOR = 10 / 3

# Regularization, by the number of epochs (recipe, second table, and the table for 30 KB of text).
WEIGHT_DECAY = 0.1
LARGEST_WEIGHT_DECAY = 2.0  # at 72 epochs
WEIGHT_DECAY_EPOCHS = 10  # above this many epochs, weight decay grows with epochs ** WEIGHT_DECAY_POWER
WEIGHT_DECAY_POWER = 1.5
DROPOUTS = ((6, 0.0), (20, 0.1), (50, 0.2), (math.inf, 0.3))  # (epochs, dropout of a run with fewer epochs)
MOST_EPOCHS = 72  # of a timed run; more epochs only memorize the text, for any dropout and weight decay

# Size: the plan chooses the largest of these shapes that sees enough tokens in the run (recipe, table of shapes).
SHAPES = (  # LAYERSxWIDTH, ascending in parameters; copying text needs two layers; three are better if time allows
    *("2x64", "2x128", "3x128", "4x128", "3x192", "4x192", "4x256", "6x256", "5x320", "6x384", "8x384", "8x512"),
    *("10x640", "12x768"),
)
TOKENS_PER_PARAMETER = 1.5  # training tokens that are enough for a shape, per parameter
HEAD_WIDTH = 64  # recipe, first table
SMALL_HEAD_WIDTH = 32  # if the width is not a multiple of 64
# The feed-forward width as a multiple of the width, rounded up to a multiple of 32. With a gate, 8/3 gives as many
# parameters as 4 without a gate.
FEED_FORWARD_RATIO = 8 / 3

# Batch: rows of (largest number of seconds of a run, context, tokens per step). Short runs learn more from many small
# steps (recipe; "On a GPU").
CPU_BATCHES = ((20, 64, 512), (45, 128, 1024), (600, 256, 1024), (3600, 256, 2048), (math.inf, 512, 4096))
GPU_BATCHES = ((30, 256, 4096), (math.inf, 256, 16384))
SHORTEST_CONTEXT = 8  # tokens
FEWEST_WINDOWS = 8  # the context is halved until the training text has this many windows

# torch.compile takes 18 to 44 s, so only runs of at least this many seconds use it ("On a GPU", "Operations of a step
# on a CPU").
COMPILED_FROM = {"cpu": 600.0, "cuda": 120.0}

# Intervals.
EVALUATIONS = 12  # per run, evenly spaced in steps, so that equal seeds give equal models; a save follows each
EVALUATION_SHARE = 0.003  # the share of the run's time for one evaluation
FEWEST_EVALUATION_WINDOWS = 16
REPORT_SECONDS = 0.5  # the interval between reports of the training loss
SAVE_SECONDS = 60.0  # a report of the training loss is followed by a save if the last save is older than this
TOLERATED_CHANGE = 0.02  # the schedule is revised if the number of remaining steps changes by more than this share

# The work after the last step of a timed run: the share of the time for each part, and the speed of each part. The
# speeds are rough, since they were measured on one machine.
FINAL_EVALUATION_SHARE = 0.05
JUDGEMENT_SHARE, JUDGEMENT_SECONDS = 0.025, 1.5  # for gzip, xz and the final sample; the smaller time applies
MOST_FINAL_TOKENS = 1 << 20  # the most tokens that the final evaluation of an untimed run scores
COMPRESSED_BYTES_PER_SECOND = 16_000  # bytes that gzip and xz read per second of the run, in 2% of its time
COUNTED_TOKENS_PER_SECOND = 16_000  # tokens that the 5-gram model counts per second of the run, in 2% of its time
MOST_COUNTED_TOKENS = 6_000_000  # counting them takes about a gigabyte of memory
COUNTING_SPEED = 800_000  # tokens that the 5-gram model counts per second
SAVE_START_SECONDS, SAVE_SPEED = 0.3, 200e6  # a save's fixed time, and its bytes per second
READING_SPEED = 5e9  # bytes of weights read per second during generation
OVERLAP_SPEED = 5e6  # training tokens per second that are searched for copied stretches of a sample
FEWEST_ADVISED_STEPS = 20  # an error about a run that is too short suggests a time for at least this many steps
FORWARD_PASSES_PER_STEP = 3  # a training step takes about three times as long as a forward pass over its tokens

# Samples of the model's text.
SAMPLE_TOKENS = 80  # shown at an evaluation and after the run
FEWEST_SAMPLE_TOKENS = 10  # with fewer, there are no samples during the run
SAMPLE_TOKENS_PER_SECOND = 1 / 3  # tokens of a sample per second of a timed run
FINAL_SAMPLE_TOKENS = 400  # tokens of the sample that is searched for copied text
FINAL_SAMPLE_TOKENS_PER_SECOND = 3  # tokens of the final sample per second of a timed run
HEAD_SCORE_TOKENS, HEAD_SCORE_TEXTS = 24, 2  # few, so that scoring heads takes a small share of an evaluation

# Measuring a step before the run.
MEASURED_FIRST = "2x128"  # the time of this shape predicts which larger shapes are worth measuring
GAIN_OF_SIZE = 1.5  # a larger model may do up to this many times as much work per second as MEASURED_FIRST
MEASURING_SHARE, MEASURING_SECONDS = 0.01, 0.4  # the share of the run's time for measuring one shape, and its limit
FEWEST_TIMED_STEPS, MOST_TIMED_STEPS = 3, 10
CPU_TIMED_TOKENS, GPU_TIMED_TOKENS = 1 << 13, 1 << 17  # of a larger step, only this many tokens are timed
FEWER_THREADS_GAIN = 0.97  # half of the threads are chosen if they shorten a step to this share of its time

# The characters of text that are read per second of a timed run: about as many as the run can train on.
CPU_CHARACTERS_PER_SECOND, GPU_CHARACTERS_PER_SECOND = 100_000, 1_000_000

# Memory.
MEMORY_SHARE = 0.8  # the share of the device's memory that a run may use
ADAPTING_BYTES = 1 << 30  # a step of adapters on a CPU is split until it fits these bytes, or the bytes of the weights
COPIED_STATE = 256 << 20  # bytes; a larger state is copied and written in the background ("Saves")

# Pairs: an encoder-decoder that translates. The numbers above apply to pairs too, unless a number below replaces them.
PAIR_MUON_LR = 0.015  # 0.01 and 0.02 were measured, 0.04 is worse ("The recipe for pairs")
PAIR_ADAMW_LR = 0.0025
PAIR_LABEL_SMOOTHING = 0.1  # Szegedy et al., 2016; a usual value for translation
PAIR_DROPOUTS = ((3, 0.0), (10, 0.1), (math.inf, 0.2))  # as DROPOUTS; measured up to 1 epoch ("The recipe for pairs")
PAIR_MOST_EPOCHS = 60
PAIR_SHAPES = (  # LAYERSxWIDTH of each stack, ascending in parameters
    *("1x64", "2x64", "2x128", "3x128", "3x192", "3x256", "4x256", "4x384", "6x384", "6x512"),
)
PAIR_TOKENS_PER_PARAMETER = 0.7  # the fewest target tokens per parameter of a shape
PAIR_MEASURED_FIRST = "2x128"
PAIR_HEAD_WIDTH = 32
PAIR_FEED_FORWARD_RATIO = 4.0
PAIR_CONTEXT = 256  # the most tokens of a side, with its end token; longer pairs are left out
# Rows of (longest run in seconds, padded tokens of both sides in a step).
PAIR_CPU_BATCHES = ((1200, 2048), (3600, 4096), (math.inf, 8192))  # "The recipe for pairs"
PAIR_GPU_BATCHES = ((math.inf, 32768),)
PAIR_EVALUATION_TOKENS = 2048  # the fewest target tokens that an evaluation scores
SHOWN_TRANSLATIONS = 3  # validation sources whose translations are shown at an evaluation and after the run
LONGEST_SHOWN_SOURCE = 60  # bytes
# BLEU and chrF2 of the summary are computed on translations of validation sources.
MOST_TRANSLATED = 2000  # the most validation sources to translate
TRANSLATING_SHARE, TRANSLATING_SECONDS = 0.05, 20.0  # the smaller one limits translation: a share of the run, seconds
SEARCHED_BYTES_PER_SECOND = 2e6  # how fast the baseline of the nearest source searches the training sources


@dataclass(frozen=True)
class Tuning:
    """The numbers of the recipe that differ between tasks."""

    muon_lr: float
    adamw_lr: float
    largest_muon_factor: float
    largest_adamw_factor: float
    label_smoothing: float
    dropouts: tuple[tuple[float, float], ...]
    most_epochs: int
    shapes: tuple[str, ...]
    tokens_per_parameter: float
    measured_first: str
    compiled_from: Mapping[str, float]


TEXT = Tuning(
    muon_lr=MUON_LR,
    adamw_lr=ADAMW_LR,
    largest_muon_factor=LARGEST_MUON_FACTOR,
    largest_adamw_factor=LARGEST_ADAMW_FACTOR,
    label_smoothing=0.0,
    dropouts=DROPOUTS,
    most_epochs=MOST_EPOCHS,
    shapes=SHAPES,
    tokens_per_parameter=TOKENS_PER_PARAMETER,
    measured_first=MEASURED_FIRST,
    compiled_from=COMPILED_FROM,
)
PAIRS = Tuning(
    muon_lr=PAIR_MUON_LR,
    adamw_lr=PAIR_ADAMW_LR,
    largest_muon_factor=1.0,
    largest_adamw_factor=1.0,
    label_smoothing=PAIR_LABEL_SMOOTHING,
    dropouts=PAIR_DROPOUTS,
    most_epochs=PAIR_MOST_EPOCHS,
    shapes=PAIR_SHAPES,
    tokens_per_parameter=PAIR_TOKENS_PER_PARAMETER,
    measured_first=PAIR_MEASURED_FIRST,
    compiled_from={},  # every batch has another shape
)
