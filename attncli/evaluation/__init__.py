"""Evaluation: scores a model on a text, and judges the score with baselines, copied text and a diagnosis."""
