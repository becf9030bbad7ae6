"""Tiny models with adapters that PEFT made."""

import json
import warnings

import torch

from attncli.checkpoint import directory
from attncli.checkpoint.adaptation import Adaptation
from attncli.checkpoint.directory import ModelFolder
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.config.lora import LoraConfig
from attncli.model.lora import trained_parameters
from attncli.text.tokenizer_training import byte_tokenizer
from tests.support.checkpoints import load
from tests.support.lazily import peft, transformers
from tests.support.models import ENCODER_DECODERS, FAMILIES, tiny_model

ATTENTION = {"gpt2": ["c_attn", "attn.c_proj"]}  # the names of the other families are q_proj to o_proj
SHAPES = FAMILIES | ENCODER_DECODERS


def write_base(path, family):
    """Writes a tiny model of a family, with logits so small that float32 has an error below 1e-5."""
    model = tiny_model(vocab_size=257, **SHAPES[family])
    with torch.no_grad():
        model.embedding.weight.mul_(0.2)
    write_checkpoint(path, Checkpoint(model.config, model.state_dict(), byte_tokenizer(), 10))
    return model


def targets_of(family, targets):
    return "all-linear" if targets == "all" else ATTENTION.get(family, ["q_proj", "k_proj", "v_proj", "o_proj"])


def peft_model(base, family, targets="all", translates=False, **settings):
    """Returns a model of transformers with adapters of PEFT whose matrices are both random."""
    kind = transformers.AutoModelForSeq2SeqLM if translates else transformers.AutoModelForCausalLM
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=targets_of(family, targets), fan_in_fan_out=family == "gpt2",
        task_type="SEQ_2_SEQ_LM" if translates else "CAUSAL_LM", **settings,
    )  # fmt: skip
    torch.manual_seed(3)
    with warnings.catch_warnings(action="ignore"):  # PEFT uses names of transformers that have a new name
        model = peft.get_peft_model(kind.from_pretrained(base), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.15 * torch.randn(parameter.shape))
    return model


def write_adapter(path, base, seed):
    """Writes an adapter of the model in a directory, with random matrices, as a training run does."""
    loaded, draws = load(base), torch.Generator().manual_seed(seed)
    lora = LoraConfig(rank=2, alpha=4, targets="attention")
    adaptation = Adaptation(lora, base, ModelFolder(base).digest_of_weights(), loaded.model.state_dict())
    network = adaptation.network(loaded.model.config, 0.0, seed)
    weights = {name: torch.randn(one.shape, generator=draws) for name, one in trained_parameters(network).items()}
    run = {"from": str(base)}
    start = loaded.start_of_text
    write_checkpoint(
        path, Checkpoint(loaded.model.config, weights, loaded.tokenizer, start, run=run, adaptation=adaptation)
    )


def change_settings(adapter, **changes):
    path = adapter / directory.ADAPTER_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
