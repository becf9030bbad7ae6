"""Text: reading files, tokenizers, and the corpus that a model is trained on."""
