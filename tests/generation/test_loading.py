"""A backend that keeps weights in a narrow type computes the same logits."""

import pytest
import torch

from attncli.generation.loading import backend_for
from attncli.model.backend import Segment
from tests.support.models import tiny_model


@pytest.mark.parametrize(("dtype", "kept"), [("bfloat16", "bfloat16"), ("float16", "float16"), ("float32", "float32")])
def test_weights_are_kept_in_the_narrowest_type_that_changes_none(in_c, family, dtype, kept):
    model = tiny_model(dtype=getattr(torch, dtype), **family).float()
    wide, narrow = backend_for(model), backend_for(model, narrow=True)
    assert (wide.types.matrices, narrow.types.matrices) == ("float32", kept)
    segments = [Segment(0, 0, range(3, 20), 17)]
    logits = wide.read(wide.new_cache(1), segments).clone()
    torch.testing.assert_close(narrow.read(narrow.new_cache(1), segments), logits, rtol=0, atol=0)
    assert model.embedding.weight.dtype == torch.float32
    assert model.embedding.weight.numel()
