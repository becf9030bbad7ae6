"""PyTorch's backend: the sources of an encoder-decoder, and the threads of the rest of the process."""

import pytest
import torch

from attncli.model import backend
from attncli.model.backend import Segment, TorchBackend
from tests.support.models import ENCODER_DECODERS, ids_of, tiny_model

TEXTS = [[11, 12, 13, 14, 15], [21, 22], [31, 32, 33, 34, 35, 36, 37]]


@pytest.fixture(params=ENCODER_DECODERS)
def crossing(request):
    return tiny_model(**ENCODER_DECODERS[request.param])


def directly(model, source, ids):
    """Returns the logits (V,) after the ids, computed by the model without a cache."""
    with torch.inference_mode():
        return model(torch.tensor([ids]), source=model.read_source(torch.tensor([source])))[0, -1]


def close(logits, expected):
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0]])
def test_every_sequence_attends_to_its_own_source(crossing, order):
    reader = TorchBackend(crossing)
    cache = reader.new_cache(3)
    reader.read_sources(cache, dict(enumerate(TEXTS)))
    targets = ids_of(6, 3, 5).tolist()
    close(
        reader.read(cache, [Segment(number, 0, targets[number][:4]) for number in order]),
        torch.stack([directly(crossing, TEXTS[number], targets[number][:4]) for number in order]),
    )
    ends = {number: 4 + (number == order[0]) for number in order}  # different positions: a step of all sequences
    reader.read(cache, [Segment(order[0], 4, targets[order[0]][4:5])])
    close(
        reader.read(cache, [Segment(number, end, [targets[number][end]]) for number, end in ends.items()]),
        torch.stack([directly(crossing, TEXTS[number], targets[number][: end + 1]) for number, end in ends.items()]),
    )


def test_a_new_source_replaces_the_old_one_and_a_copy_keeps_it(crossing):
    reader = TorchBackend(crossing)
    cache = reader.new_cache(4)
    reader.read_sources(cache, {0: TEXTS[0], 1: TEXTS[1]})
    reader.read(cache, [Segment(0, 0, [5, 6]), Segment(1, 0, [5, 6])])
    cache.copy(0, 3, 2)
    reader.read_sources(cache, {0: TEXTS[2], 2: TEXTS[1]})
    cache.copy(3, 1, 1)
    found = reader.read(cache, [Segment(0, 0, [5, 7]), Segment(1, 1, [8]), Segment(2, 0, [9]), Segment(3, 2, [8])])
    close(
        found,
        torch.stack(
            [
                directly(crossing, TEXTS[2], [5, 7]),
                directly(crossing, TEXTS[0], [5, 8]),
                directly(crossing, TEXTS[1], [9]),
                directly(crossing, TEXTS[0], [5, 6, 8]),
            ]
        ),
    )


def test_a_step_ignores_sequences_without_a_source(crossing):
    reader = TorchBackend(crossing)
    cache = reader.new_cache(4)
    reader.read_sources(cache, {1: TEXTS[0], 2: TEXTS[1]})
    reader.read(cache, [Segment(1, 0, [5, 6]), Segment(2, 0, [5])])
    for _ in range(2):
        found = reader.read(cache, [Segment(1, 2, [7]), Segment(2, 1, [8])])
    close(found, torch.stack([directly(crossing, TEXTS[0], [5, 6, 7]), directly(crossing, TEXTS[1], [5, 8])]))
    reader.read_sources(cache, {3: TEXTS[2]})
    found = reader.read(cache, [Segment(3, 0, [9])])
    close(found, directly(crossing, TEXTS[2], [9])[None])


def test_the_bytes_of_a_cache_include_those_of_the_sources(crossing):
    reader = TorchBackend(crossing)
    cache = reader.new_cache(2)
    reader.read_sources(cache, {0: TEXTS[0], 1: TEXTS[1]})
    config = crossing.config
    assert cache.nbytes == 2 * 5 * config.layers * 2 * config.kv_heads * config.head_width * 4


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
