"""The structure of the package: imports between rooms, modules without torch, the map and the README."""

import ast
import functools
import re
import shlex
import subprocess
import sys
import tomllib
from typing import get_type_hints

import pytest
import typer
from typer.models import OptionInfo

from attncli.checkpoint.catalog import SHIPPED
from attncli.cli.circuit.group import group as circuit
from attncli.cli.main import app
from tests.support.hatch import hatch_build
from tests.support.places import ROOT

PACKAGE = ROOT / "attncli"
FILES = sorted(PACKAGE.rglob("*.py"))
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*DOCUMENTS, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"))]
PAGES += [ROOT / "checkpoints" / "README.md", *(ROOT / "checkpoints" / name / "README.md" for name in SHIPPED)]

# The floor of each room. A room may import from itself and from rooms with a lower number.
FLOORS = {
    "errors": 0,
    "stopping": 0,
    "config": 1,
    "folders": 1,
    "paths": 1,
    "records": 2,
    "text": 2,
    "model": 2,
    "checkpoint": 3,
    "generation": 4,
    "explain": 4,
    "evaluation": 4,
    "training": 5,
    "circuits": 5,
    "render": 6,
    "views": 7,
    "pages": 8,
    "library": 9,
    "serve": 10,
    "cli": 11,
    "__main__": 12,
}
OWNERS = {"typer": "cli", "rich": "render", "matplotlib": "render", "starlette": "serve", "uvicorn": "serve"}


@functools.cache
def tree_of(file):
    """Returns the syntax tree of a file."""
    return ast.parse(file.read_text())


@functools.cache
def nodes_of(file):
    """Returns all nodes of the syntax tree of a file."""
    return tuple(ast.walk(tree_of(file)))


@functools.cache
def imports(file, types=True):
    """Returns the modules that a file imports; without `types`, imports under `if TYPE_CHECKING` are left out."""
    return tuple(_imports(file, types))


def _imports(file, types):
    tree = tree_of(file)
    annotations = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    skipped = set() if types else {inside for block in annotations for inside in ast.walk(block)}
    for node in nodes_of(file):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            yield node.module
            yield from (
                f"{node.module}.{alias.name}"
                for alias in node.names
                if (ROOT / (node.module.replace(".", "/"))).is_dir()
            )


def room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def faults_of_imports(file):
    """Returns the imports of a file from higher rooms, and of packages that belong to another room."""
    here = room(".".join(file.relative_to(ROOT).with_suffix("").parts))
    if here == "__init__":
        return []
    faults = []
    for module in imports(file):
        owner = OWNERS.get(module.split(".")[0], here)
        inner = room(module) if module.startswith("attncli.") else here
        if owner != here or (inner != here and inner in FLOORS and FLOORS[inner] >= FLOORS[here]):
            faults.append(f"{file.relative_to(PACKAGE)} imports {module}")
    return faults


def test_a_room_imports_only_from_lower_rooms():
    assert [fault for file in FILES for fault in faults_of_imports(file)] == []


def test_render_imports_torch_for_annotations_only():
    """The file that computes a finding imports torch, so render imports its type only under TYPE_CHECKING."""
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in FILES}
    own = {name: file for name, file in names.items() if room(name) == "render"}
    imported = {module for file in own.values() for module in imports(file, types=False)}
    modules = sorted({*own, *imported} & set(names))
    code = f"import importlib, sys; [importlib.import_module(name) for name in {modules}]; "
    code += "sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or "torch is imported"


def test_every_imported_package_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    optional = (*extras["plot"], *extras["tensorboard"], *extras["translation"], *extras["serve"], *extras["gguf"])
    declared = {re.match("[a-z0-9_]+", name)[0] for name in (*project["dependencies"], *optional)}
    modules = {"llama_cpp"} if "llama-cpp-python" in extras["gguf"][0] else set()  # its name is not the package's
    known = {*sys.stdlib_module_names, "attncli", *declared, *modules}
    used = {module.split(".")[0] for file in FILES for module in imports(file)}
    assert used - known == set()
    assert (PACKAGE / "py.typed").exists()


def slug(heading):
    """Returns the anchor of a heading on GitHub: 'Which model?' -> 'which-model'."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page):
    """Returns the anchors of the headings of a page, without the code blocks."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_has_an_existing_target(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="(?![a-z]+:)([^"]+)"', text)
    broken = []
    for link in links:
        path, _, section = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (section and section not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_links_and_pictures_of_the_readme_are_absolute_on_a_package_index():
    page = hatch_build().absolute((ROOT / "README.md").read_text(encoding="utf-8"), "https://here")
    links = re.findall(r"\]\(([^)\s]+)\)", page)
    pictures = re.findall(r'(?:src|srcset)="([^"]+)"', page)
    assert links
    assert pictures
    assert all(re.match("https://here/blob/main/|#", link) for link in links)
    assert all(picture.startswith("https://here/raw/main/docs/") for picture in pictures)


def test_the_readme_lists_every_command():
    table = re.findall(r"^\| \[`attncli (\S+).*?`\]", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    commands = typer.main.get_command(app).commands
    assert sorted(table) == sorted(commands)


TESTS = sorted((ROOT / "tests").rglob("*.py"))
TESTS_OF_THE_WHOLE = {"support", "campaign"}  # shared helpers, and campaigns that are run by hand


def test_each_folder_of_tests_is_a_room_of_the_package():
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")}
    assert folders >= TESTS_OF_THE_WHOLE
    assert folders - TESTS_OF_THE_WHOLE <= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def test_shared_helpers_of_tests_are_in_support():
    """A test file imports helpers only from tests/support; pytest provides the fixtures of conftest.py.

    The syntax trees of all tests would take seconds.
    """
    own = re.compile(r"^ *(?:from|import) (tests\b.*)", re.MULTILINE)
    shared = [(file.name, names) for file in TESTS for names in own.findall(file.read_text(encoding="utf-8"))]
    assert shared
    assert [one for one in shared if not re.match(r"tests\.support\b", one[1])] == []


def test_every_room_has_a_floor():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__", "__pycache__"} == set(FLOORS)


WITHOUT_TORCH = (
    "run(['--help'])",
    "run([])",
    "run(['train', '--help'])",
    "run(['tokenize', 'unbelievable'])",
    "run(['models'])",
    "run(['info', '--preset', 'gpt3'])",
    "run(['eval', '--help-all'])",
    "run(['serve', '--help'])",
    "run(['circuit']); run(['circuit', 'find', '--help'])",
    "import attncli.render.bench; run(['bench', '--help'])",
    "import attncli.render.training, attncli.render.first_screen, attncli.render.generation, attncli.render.models",
    "import attncli.render.compare, attncli.render.geometry, attncli.render.picture, attncli.render.plain",
    "import attncli.render.export; run(['compare', '--help']); run(['neighbors', 'a', '--svg', '.'])",
    "import attncli.render.evaluation, attncli.evaluation.judgement, attncli.training.diagnosis",
)


def test_commands_and_modules_without_torch_do_not_import_it(tmp_path):
    """All run in one interpreter, which is stopped after the first statement that imports torch."""
    checked = [f"{statement}\nif 'torch' in sys.modules: sys.exit({statement!r})\n" for statement in WITHOUT_TORCH]
    code = "import sys; from attncli.cli.main import run\n" + "".join(checked)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_module_can_be_imported_without_posix():
    """After the libraries are imported, the names that Windows lacks are removed and every module is imported."""
    code = """
import importlib, os, pkgutil, signal, sys
import rich.console, safetensors.torch, tokenizers, torch, typer.testing
import attncli
for name in ("fcntl", "grp", "pwd", "readline", "resource", "termios"):
    sys.modules[name] = None
for name in ("O_NOFOLLOW", "O_NONBLOCK", "fork", "geteuid", "getuid", "killpg", "pread", "sysconf", "uname"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL"):
    delattr(signal, name)
for module in pkgutil.walk_packages(attncli.__path__, "attncli."):
    importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_map_in_contributing_lists_every_file():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    listed = re.findall(r"^\s*(attncli/\S+\.py)\s+\S", text, re.MULTILINE)
    assert sorted(listed) == [str(file.relative_to(ROOT)) for file in FILES if file.name != "__init__.py"]


def places_of_changes():
    """Returns the rows of the tables in CONTRIBUTING that say where a change goes."""
    section = (
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Where a change goes")[1].split("\n## ")[0]
    )
    return re.findall(r"^\| \*\*.+$", section, re.MULTILINE)


@pytest.mark.parametrize("row", places_of_changes(), ids=lambda row: row.split("**")[1])
def test_the_table_of_changes_names_existing_files_and_names(row):
    """Paths are relative to the package, the repository or the last named folder. Each name occurs in a named file."""
    files, missing, folder = [], [], PACKAGE
    for path in re.findall(r"`([\w./]*(?:/|\.(?:py|c|md|js)))`", row):
        if "NAME" in path:
            continue
        found = [place / path for place in (PACKAGE, ROOT, folder) if (place / path).exists()]
        if found:
            files, folder = [*files, found[0]], found[0].parent
        else:
            missing.append(path)
    text = "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
    names = re.findall(r"`(_?[A-Z][A-Z_]{3,}|[A-Z][a-z]+[A-Z]\w+)`", row)
    assert missing == []
    assert [name for name in names if name not in text] == []


def command_lines(file):
    """Yields the words of every attncli command in a code block, and between backticks in a sentence."""
    text = file.read_text(encoding="utf-8")
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) + re.findall(r"^ {4}.*$", text, re.MULTILINE)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = ["\n".join(blocks), *re.findall(r"`(attncli (?!COMMAND)[^`]*)`", prose)]
    for line in "\n".join(lines).splitlines():
        if found := re.match(r"\s*(?:\$ )?(attncli(?: .*)?)$", line):
            yield shlex.split(found[1], comments=True)


def test_the_readme_shows_commands():
    assert len(list(command_lines(ROOT / "README.md"))) >= 3


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.stem)
def test_every_command_and_option_in_the_documents_exists(page):
    commands = typer.main.get_command(app).commands
    for words in command_lines(page):
        called = [word for word in words[1:] if not word.startswith("-")][:2]
        assert not called or called[0] in commands, words
        command = commands[called[0]] if called else None
        if called[1:] and hasattr(command, "commands"):  # a group
            assert called[1] in command.commands, words
            command = command.commands[called[1]]
        known = {
            option for param in (command.params if command else []) for option in (*param.opts, *param.secondary_opts)
        }
        unknown = [word.split("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)]
        assert set(unknown) <= known | {"--help", "--help-all"}, words


@pytest.mark.parametrize("name", list(typer.main.get_command(app).commands))
def test_help_begins_with_a_sentence_and_two_examples(name):
    command = typer.main.get_command(app).commands[name]
    sentence, examples, *_ = command.help.strip().split("\n\n")
    assert sentence.endswith(".")
    lines = [line.strip() for line in examples.splitlines()]
    assert len(lines) == 2
    assert all(line.startswith(f"attncli {name}") for line in lines)


def test_no_module_can_execute_code_from_a_file():
    for file in FILES:
        called = {node.func for node in nodes_of(file) if isinstance(node, ast.Call)}
        calls = {ast.unparse(name) for name in called if isinstance(getattr(name, "value", name), ast.Name)}
        assert not {"eval", "exec", "torch.load", "__import__"} & calls, file
        assert not {"pickle", "marshal", "shelve"} & set(imports(file)), file


@pytest.mark.parametrize("room", ["checkpoint", "generation", "model", "text"])
def test_errors_of_the_library_rooms_spell_no_options(room):
    for file in (PACKAGE / room).rglob("*.py"):
        documented = [node for node in nodes_of(file) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
        docstrings = {id(node.body[0].value) for node in documented if isinstance(node.body[0], ast.Expr)}
        texts = [node for node in nodes_of(file) if isinstance(node, ast.Constant) and id(node) not in docstrings]
        spelled = [node.value for node in texts if re.search(r"(^|[ (])--[a-z]", str(node.value))]
        assert not spelled, file


def test_an_option_named_like_its_metavar_declares_its_name():
    """Typer 0.27 names an option by its metavar if metavar and parameter differ only in upper and lower case."""
    unnamed = []
    for command in (*app.registered_commands, *circuit.registered_commands):
        for name, hint in get_type_hints(command.callback, include_extras=True).items():
            for info in getattr(hint, "__metadata__", ()):
                like = isinstance(info, OptionInfo) and info.metavar is not None and info.metavar.lower() == name
                if like and not str(info.default).startswith("--"):  # Annotated stores the first name here
                    unnamed.append((command.callback.__name__, name))
    assert unnamed == []


def test_type_names_of_explain_and_render_are_unique():
    """Types are the classes and the named types of a module; arrays of numbers may be named in each module."""
    homes = {}
    for file in FILES:
        for node in tree_of(file).body:
            names = [node.name] if isinstance(node, ast.ClassDef) else []
            names += [ast.unparse(target) for target in node.targets] if isinstance(node, ast.Assign) else []
            for name in names:
                if re.fullmatch("[A-Z][a-z]+[A-Za-z]*", name) and name != "Floats":
                    homes.setdefault(name, []).append(str(file.relative_to(PACKAGE)))
    shared = {name: files for name, files in homes.items() if len(files) > 1}
    assert not {name: files for name, files in shared.items() if any(re.match("explain|render", at) for at in files)}
