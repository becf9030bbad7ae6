"""The page of a model in bfloat16 or on an accelerator: finite numbers, and no NumPy array of a device's tensor."""

import numpy as np
import pytest
import torch

from attncli.checkpoint.load import load_model
from attncli.explain.model_heads import scores_by_part
from attncli.explain.page.cuts import CUT_KINDS
from attncli.explain.page.document import page_document
from attncli.render.page.payload import payload
from attncli.text.tokenizer_training import train_tokenizer
from attncli.views import ViewOptions, text_of
from tests.support.checkpoints import CPU, write_random_model, write_random_translator
from tests.support.encoders import write_bert
from tests.support.texts import story
from tests.support.translation import artificial_tokenizer

WRITE = {
    "decoder": lambda path: write_random_model(path, train_tokenizer([story(400)], "bpe", 300)),
    "encoder": write_bert,
    "translation": lambda path: write_random_translator(path, artificial_tokenizer()),
}
TEXTS = {
    "decoder": ("The small cat sat", ViewOptions()),
    "encoder": ("The [MASK] barked.", ViewOptions()),
    "translation": ("a c a", ViewOptions(target="b d")),
}
BFLOAT16 = 0.06  # the greatest difference of a share or a probability: 8 bits of precision through three layers


@pytest.fixture(scope="module", params=WRITE)
def kind_and_path(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("devices") / "m"
    WRITE[request.param](path)
    return request.param, path


def document_of(kind, loaded):
    text, options = TEXTS[kind]
    return page_document(
        loaded, text_of(loaded, text, options), kinds=scores_by_part(loaded, sequences=1), cut_budget=1e8
    )


def arrays_of(document):
    """Returns the shares and probabilities of a document that bfloat16 should change little, by name."""
    found = {}
    for each in document.attentions:
        for name in ("raw", "norm", "layer_shares", "rollout", "even"):
            if getattr(each, name) is not None:
                found[f"{each.part} {name}"] = getattr(each, name)
    for part, cuts in document.cuts.items():
        found[f"{part} before"] = np.sort(cuts.before)
        for kind in CUT_KINDS:
            if (effect := getattr(cuts, kind)) is not None:
                found[f"{part} {kind}"] = effect.probabilities
    found["kept"] = document.predictions.probability_of_kept
    found["lens"] = document.predictions.lens.probabilities
    return found


def test_a_page_in_bfloat16_is_finite_and_near_that_in_float32(kind_and_path):
    kind, path = kind_and_path
    wide, narrow = (document_of(kind, load_model(path, CPU, dtype)) for dtype in (torch.float32, torch.bfloat16))
    assert payload([narrow])
    expected, found = arrays_of(wide), arrays_of(narrow)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert np.isfinite(array).all(), name
        np.testing.assert_allclose(array, expected[name], atol=BFLOAT16, err_msg=name)
    vectors = [each.vectors for each in narrow.attentions]
    for name in ("query", "key", "value", "scores", "written"):
        assert all(np.isfinite(getattr(each, name)).all() for each in vectors)
    assert np.isfinite(narrow.predictions.logits).all()
    np.testing.assert_allclose(narrow.predictions.entropy, wide.predictions.entropy, atol=0.1)


class OnDevice(torch.Tensor):
    """A tensor that a program must bring to the CPU before NumPy reads it. What is computed from it is one, too."""

    def cpu(self):
        return super().cpu().as_subclass(torch.Tensor)

    def numpy(self, **_):
        raise AssertionError("NumPy reads a tensor of a device")


def test_numpy_reads_no_tensor_of_a_device(kind_and_path):
    kind, path = kind_and_path
    loaded = load_model(path, CPU, torch.float32)
    expected = document_of(kind, loaded)
    for module in loaded.model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = parameter.detach().as_subclass(OnDevice)
    found = document_of(kind, loaded)
    assert payload([found]) == payload([expected])
