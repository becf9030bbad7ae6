"""The library transformers, which is imported at its first use: every worker collects all tests, but few need it."""

import importlib


class _Lazily:
    """A module that is imported when one of its names is first read."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, name):
        return getattr(importlib.import_module(self._name), name)


transformers = _Lazily("transformers")
