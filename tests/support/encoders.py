"""A random BERT of transformers, with a WordPiece tokenizer."""

import torch

from tests.support.lazily import transformers
from tests.support.tokenizers import wordpiece


def write_bert(path):
    """Writes a random BERT, whose attention is far from uniform, to a model directory. Returns the model."""
    tokenizer = wordpiece()
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=32,
    )  # fmt: skip
    model = transformers.BertForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    return model
