"""Gives each test of this room its own token cache."""

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNCLI_CACHE", str(tmp_path / "cache"))
