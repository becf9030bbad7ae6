"""PyTorch's backend does not change the threads of the rest of the process."""

import pytest
import torch

from attncli.model import backend
from attncli.model.backend import Segment, TorchBackend
from tests.support.models import tiny_model


@pytest.mark.parametrize(("ids", "threads"), [([1], 1), ([1, 2, 3], 2)])
def test_no_other_thread_reads_while_a_step_has_changed_the_number_of_threads(monkeypatch, ids, threads):
    """A thread that first uses PyTorch during a step would keep the step's number of threads for good."""
    read, seen = TorchBackend._read, []

    def watched(self, cache, segments):
        seen.append((backend._threads_lock.locked(), torch.get_num_threads()))
        return read(self, cache, segments)

    monkeypatch.setattr(TorchBackend, "_read", watched)
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        reader = TorchBackend(tiny_model())
        reader.read(reader.new_cache(1), [Segment(0, 0, ids)])
        assert (seen, torch.get_num_threads()) == ([(True, threads)], 2)
    finally:
        torch.set_num_threads(usual)
