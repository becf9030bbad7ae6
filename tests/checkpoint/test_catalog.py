"""Finding a model by its path, its name, the environment or its age."""

import os
import shutil
from pathlib import Path

import pytest

from attncli.checkpoint import catalog, directory
from attncli.checkpoint.catalog import find_model, list_models
from attncli.checkpoint.save import write_checkpoint
from attncli.errors import BadCheckpoint
from tests.support.checkpoints import checkpoint, load


def test_a_model_is_found_by_path_name_variable_or_age(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for age, name in ((200, "old"), (100, "new")):
        write_checkpoint(tmp_path / "checkpoints" / name, checkpoint(state=False))
        config = tmp_path / "checkpoints" / name / directory.CONFIG
        os.utime(config, (config.stat().st_mtime - age,) * 2)
    assert find_model(None).name == "new"
    assert find_model("old").name == "old"
    assert find_model(str(tmp_path / "checkpoints" / "old")).name == "old"
    monkeypatch.setenv("ATTNCLI_MODEL", "old")
    assert find_model(None).name == "old"
    assert [entry.name for entry in list_models()] == ["new", "old"]
    with pytest.raises(BadCheckpoint, match="no model 'other'") as raised:
        find_model("other")
    assert "new, old" in raised.value.hint


def test_a_model_with_only_a_previous_save_is_listed_under_its_name(tmp_path, monkeypatch):
    """A crash between the two renames of a save leaves this state."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_checkpoint(Path("checkpoints") / name, checkpoint())
        write_checkpoint(Path("checkpoints") / name, checkpoint())
    shutil.rmtree("checkpoints/a")
    os.utime("checkpoints/b/config.json", (1, 1))
    assert [(entry.name, entry.path.name) for entry in list_models()] == [("a", ".a.previous"), ("b", "b")]
    assert load(find_model(None)).model.config == checkpoint().config
    assert find_model(None).name == ".a.previous"


def test_the_model_that_ships_is_the_default_until_another_is_trained(tmp_path, monkeypatch):
    shipped = tmp_path / "installed" / catalog.SHIPPED
    write_checkpoint(shipped, checkpoint(state=False))
    monkeypatch.setattr(catalog, "_SHIPPED_PLACES", (tmp_path / "nowhere", shipped))
    monkeypatch.chdir(tmp_path)
    assert find_model(None) == find_model(catalog.SHIPPED) == shipped
    write_checkpoint(Path("checkpoints/mine"), checkpoint(state=False))
    assert find_model(None).name == "mine"
    assert find_model(catalog.SHIPPED) == shipped
    write_checkpoint(Path("checkpoints") / catalog.SHIPPED, checkpoint(state=False))
    assert find_model(catalog.SHIPPED) == Path("checkpoints") / catalog.SHIPPED


def test_no_model_at_all_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadCheckpoint, match=r"no model in \./checkpoints") as raised:
        find_model(None)
    assert "attncli train FILE" in raised.value.hint


# Files of tensors, compared with the safetensors library
