"""Words to numbers and back: tokenizers, and the corpus a model is trained on."""
