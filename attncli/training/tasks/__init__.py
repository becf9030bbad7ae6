"""What a run learns: the next token of a text, or the translation of sentences."""
