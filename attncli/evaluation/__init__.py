"""What a score is worth: the score of a model on a text, baselines, memorization, the judgement of a run."""
