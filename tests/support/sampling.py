"""Logits and sampling settings that several tests use."""

import math

import torch

from attncli.config import SampleConfig

INF = math.inf


ALL = SampleConfig(temperature=1.0, min_p=0.0)  # every filter off


EACH = [
    {"logit_bias": ((1, 0.3), (2, -INF))}, {"repetition_penalty": 1.3}, {"presence_penalty": 0.7},
    {"temperature": 0.7}, {"temperature": 0.0}, {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.01}, {"typical": 0.9},
    {
        "temperature": 1.3, "top_k": 900, "top_p": 0.99, "min_p": 0.001, "typical": 0.95, "repetition_penalty": 1.1,
        "presence_penalty": -0.2, "logit_bias": ((0, 0.3),),
    },
]  # fmt: skip


def logits_of(*probabilities):
    """Returns logits (1, V) whose softmax is these probabilities; 0 becomes -inf."""
    return torch.tensor([probabilities], dtype=torch.float64).log().float()


def random_logits(rows, size, seed=0, spread=3.0):
    return spread * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))
