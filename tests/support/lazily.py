"""The libraries transformers and PEFT, imported at their first use: every worker collects all tests, few need them."""

import importlib


class _Lazily:
    """A module that is imported when one of its names is first read."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, name):
        return getattr(importlib.import_module(self._name), name)


transformers = _Lazily("transformers")
peft = _Lazily("peft")
