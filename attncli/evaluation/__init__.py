"""Evaluation: the score of a model on a text, and what helps to judge it: baselines, memorization, a diagnosis."""
