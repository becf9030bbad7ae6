"""The tasks that a run can learn: the next token of a text, or the translation of sentences."""
