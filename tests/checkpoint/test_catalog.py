"""Finding a model by its path, its name, the environment or its age."""

import os
import shutil
from pathlib import Path

import pytest

from attncli.checkpoint import catalog, directory
from attncli.checkpoint.catalog import find_model, known_models, list_models
from attncli.checkpoint.listing import list_known
from attncli.checkpoint.save import write_checkpoint
from attncli.cli.resolving import note_default
from attncli.errors import BadCheckpoint
from attncli.text.tokenizer_training import byte_tokenizer
from tests.support.checkpoints import checkpoint, load
from tests.support.gguf_files import exported, model_directory


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


def test_gguf_files_are_listed_and_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    users = tmp_path / "users"
    monkeypatch.setenv("ATTNCLI_MODELS", str(users))
    loaded = model_directory(Path("checkpoints/m"), byte_tokenizer(), qk_norm=False)
    users.mkdir()
    for path in (Path("checkpoints/Mine.GGUF"), users / "yours.gguf", Path("m.gguf")):
        exported(path, loaded)
    Path("checkpoints/other.gguf").write_bytes(b"something else")
    Path("checkpoints/damaged.gguf").write_bytes(b"GGUF and nothing more")
    listing = list_known()
    names = {entry.name: entry for entry in listing.entries if entry.name not in catalog.SHIPPED}
    assert names.keys() == {"m", "Mine.GGUF", "yours.gguf", "damaged.gguf"}
    assert names["yours.gguf"].bytes == (users / "yours.gguf").stat().st_size
    assert listing.shapes["Mine.GGUF"] == listing.shapes["m"] and "damaged.gguf" not in listing.shapes
    assert find_model("Mine.GGUF") == Path("checkpoints/Mine.GGUF")
    assert find_model("yours.gguf") == users / "yours.gguf"
    assert find_model("m.gguf") == Path("m.gguf") and find_model("m") == Path("checkpoints/m")
    assert load(find_model("yours.gguf")).model.config == loaded.model.config
    os.utime(users / "yours.gguf", (2e9, 2e9))
    assert find_model(None).parent == Path("checkpoints")  # before the user's folder
    os.utime("checkpoints/Mine.GGUF", (2e9, 2e9))
    assert find_model(None) == Path("checkpoints/Mine.GGUF") and list_known().default == "Mine.GGUF"


def test_the_model_that_ships_is_the_default_until_another_is_trained(tmp_path, monkeypatch):
    installed = tmp_path / "installed"
    ship(monkeypatch, installed)
    monkeypatch.chdir(tmp_path)
    assert find_model(None) == find_model(catalog.DEFAULT) == installed / catalog.DEFAULT
    write_checkpoint(Path("checkpoints/mine"), checkpoint(state=False))
    assert find_model(None).name == "mine"
    assert find_model(catalog.DEFAULT) == installed / catalog.DEFAULT
    write_checkpoint(Path("checkpoints") / catalog.DEFAULT, checkpoint(state=False))
    assert find_model(catalog.DEFAULT) == Path("checkpoints") / catalog.DEFAULT


def ship(monkeypatch, folder):
    """Writes all shipped models to a folder, the default first."""
    for name in catalog.SHIPPED:
        write_checkpoint(folder / name, checkpoint(state=False))
    os.utime(folder / catalog.DEFAULT / directory.CONFIG, (1, 1))
    monkeypatch.setattr(catalog, "_SHIPPED_FOLDERS", (folder.parent / "nowhere", folder))


@pytest.mark.parametrize("other", catalog.SHIPPED[1:])
def test_a_shipped_model_other_than_the_default_is_only_used_by_its_name(tmp_path, monkeypatch, other):
    installed = tmp_path / "installed"
    ship(monkeypatch, installed)
    monkeypatch.chdir(tmp_path)
    assert find_model(other) == installed / other
    shutil.rmtree(installed / catalog.DEFAULT)
    assert [entry.name for entry in known_models()] == list(catalog.SHIPPED[1:])
    with pytest.raises(BadCheckpoint, match=r"no model in \./checkpoints"):
        find_model(None)


@pytest.mark.parametrize("other", catalog.SHIPPED[1:])
def test_the_default_in_a_copy_of_the_repository_is_not_another_shipped_model(tmp_path, monkeypatch, capsys, other):
    """In a copy of the repository, ./checkpoints contains the shipped models."""
    ship(monkeypatch, tmp_path / catalog.MODELS_FOLDER)
    monkeypatch.chdir(tmp_path)
    assert find_model(None).name == catalog.DEFAULT
    assert [entry.name for entry in known_models()] == sorted(catalog.SHIPPED)
    note_default(None)
    assert capsys.readouterr().err == ""
    write_checkpoint(Path("checkpoints/mine"), checkpoint(state=False))
    assert find_model(None).name == "mine"
    note_default(None)
    assert capsys.readouterr().err == "model mine, the newest in ./checkpoints\n"
    monkeypatch.setattr(catalog, "_SHIPPED_FOLDERS", (tmp_path / "installed",))
    os.utime(Path("checkpoints", other, directory.CONFIG), (2e9, 2e9))
    assert find_model(None).name == other  # a model of the same name that did not ship


@pytest.mark.parametrize("other", catalog.SHIPPED[1:])
def test_the_default_is_the_same_for_an_installed_package_in_a_copy_of_the_repository(tmp_path, monkeypatch, other):
    """The package then contains the shipped models too. git writes files in any order, so any model may be newest."""
    ship(monkeypatch, tmp_path / "installed")
    shutil.copytree(tmp_path / "installed", tmp_path / catalog.MODELS_FOLDER)
    monkeypatch.chdir(tmp_path)
    os.utime(Path("checkpoints", other, directory.CONFIG), (2e9, 2e9))
    assert find_model(None) == Path("checkpoints", catalog.DEFAULT)
    Path("checkpoints", other, directory.RUN).write_text('{"created": "later"}')
    assert find_model(None).name == other  # the user trained a model of this name


def test_no_model_at_all_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadCheckpoint, match=r"no model in \./checkpoints") as raised:
        find_model(None)
    assert "attncli train FILE" in raised.value.hint


# Files of tensors, compared with the safetensors library
