"""Circuits: which components of a model together produce a prediction, measured by exact patching."""
