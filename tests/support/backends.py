"""A backend for tests that has no network and predicts given ids."""

import torch

from tests.support.models import tiny_config


class Scripted:
    """A backend that predicts the given ids one after another, regardless of the tokens that it reads."""

    exact = False
    device = torch.device("cpu")
    config = tiny_config(vocab_size=300, context=1000)

    def __init__(self, ids):
        self.ids = ids
        self.said = 0

    def new_cache(self, sequences, positions=1):
        return None

    def read(self, cache, segments):
        logits = torch.zeros(1, 300)
        logits[:, self.ids[self.said]] = 1
        self.said += 1
        return logits
