"""Random encoder-decoders of transformers, of every family and switch."""

import torch

from tests.support.lazily import transformers

M2M100 = {
    "vocab_size": 300, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 128,
    "dropout": 0.0, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0,
}  # fmt: skip
SIZES = {name: M2M100[name] for name in M2M100 if name != "decoder_layerdrop"}
MARIAN = SIZES | {"pad_token_id": 299, "decoder_start_token_id": 299, "eos_token_id": 2, "bad_words_ids": [[299]]}
BART = SIZES | {"forced_bos_token_id": 0}
T5 = {
    "vocab_size": 300, "d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
    "dropout_rate": 0.0, "n_positions": 128, "decoder_start_token_id": 0,
}  # fmt: skip
T5_NEW = T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
BUCKETS = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 10, "num_decoder_layers": 1}
THEIRS = {
    "marian": ("Marian", MARIAN | {"activation_function": "swish", "scale_embedding": True}),
    "marian-gelu": ("Marian", MARIAN | {"encoder_layers": 1, "decoder_layers": 2}),
    "marian-relu": ("Marian", MARIAN | {"activation_function": "relu", "encoder_layers": 3, "decoder_layers": 1}),
    "bart": ("Bart", BART),
    "bart-scaled": ("Bart", BART | {"scale_embedding": True, "activation_function": "relu", "pad_token_id": 3}),
    "t5": ("T5", T5),
    "t5-gated-silu": ("T5", T5 | BUCKETS | {"feed_forward_proj": "gated-silu", "layer_norm_epsilon": 1e-4}),
    "t5-gelu": ("T5", T5 | {"feed_forward_proj": "gelu"}),
    "t5-1.1": ("T5", T5_NEW),
    "t5-1.1-buckets": ("T5", T5_NEW | BUCKETS),
    "m2m100": ("M2M100", M2M100),
    "m2m100-pad": ("M2M100", M2M100 | {"pad_token_id": 7, "activation_function": "gelu", "scale_embedding": False}),
}


def their_model(name):
    """Returns a random model of transformers, with weights so large that errors change the results."""
    family, switches = THEIRS[name]
    config = getattr(transformers, f"{family}Config")(**switches)
    torch.manual_seed(1)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager").eval()
    if switches.get("tie_word_embeddings") is False:  # transformers ties the head of every new T5
        model.lm_head.weight = torch.nn.Parameter(torch.randn(model.lm_head.weight.shape))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # not the sinusoids of Marian
                parameter.add_(0.15 * torch.randn(parameter.shape))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
    return model


def save_theirs(path, model, tokenizer):
    model.save_pretrained(path)
    (path / "tokenizer.json").write_text(tokenizer.to_json())
