"""Models of the hub, from a local server in place of the hub: downloads, the cache and errors."""

import io
import json
import os
import pty
import subprocess
import sys
import threading
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from safetensors.torch import load_file, save_file

from attncli.checkpoint import hub
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from attncli.cli import main
from attncli.errors import BadCheckpoint
from attncli.text.tokenizer_training import byte_tokenizer
from tests.support.forking import Done, run_forked
from tests.support.models import tiny_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/tiny"


class Hub(BaseHTTPRequestHandler):
    """Answers a download's requests as the hub does: the list of a repository's files, and each file."""

    files: dict[str, bytes]
    asked: list[str]
    error: tuple[int, str] | None = None
    instead: bytes | None = None  # the content of every answer
    commit = COMMIT  # the commit of every file

    def do_GET(self):
        if self.instead is not None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            return self.ends(self.instead)
        type(self).asked.append(f"{self.command} {self.path}")
        path = unquote(self.path.partition("?")[0])
        if path.startswith("/api/models/"):
            return self.repository(path.removeprefix("/api/models/"))
        name, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        if type(self).error == (403, "GatedRepo"):
            return self.fails(403, "GatedRepo")
        if name != NAME or revision not in ("main", COMMIT) or file not in self.files:
            return self.fails(404, "EntryNotFound")
        data = self.files[file]
        self.send_response(200)
        self.send_header("ETag", f'"{sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        return self.ends(data)

    do_HEAD = do_GET

    def repository(self, asked):
        name, _, revision = asked.partition("/revision/")
        if type(self).error and self.error[1] != "GatedRepo":
            return self.fails(*self.error)
        if name != NAME:
            return self.fails(401, "RepoNotFound")
        if revision not in ("main", COMMIT):
            return self.fails(404, "RevisionNotFound")
        siblings = [{"rfilename": file, "size": len(data)} for file, data in self.files.items()]
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        return self.ends(json.dumps({"id": NAME, "sha": COMMIT, "siblings": siblings}).encode())

    def fails(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.ends(b"{}")

    def ends(self, data):
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextmanager
def standing_in(files, error=None, **more):
    served = type("Served", (Hub,), {"files": files, "asked": [], "error": error, **more})
    server = ThreadingHTTPServer(("127.0.0.1", 0), served)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield served, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Returns the files of a model as in a repository of the hub, including files that attncli does not need."""
    folder = tmp_path_factory.mktemp("hub") / "m"
    model = tiny_model(vocab_size=257)
    write_checkpoint(folder, Checkpoint(model.config, model.state_dict(), byte_tokenizer(), 10))
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    for ours in ("manifest.json", "run.json", "metrics.jsonl"):
        del kept[ours]
    return kept | {"README.md": b"x", "pytorch_model.bin": b"x", "consolidated.safetensors": b"x", "model.onnx": b"x"}


@pytest.fixture
def sharded(files, tmp_path):
    (tmp_path / "x").write_bytes(files["model.safetensors"])
    tensors = load_file(tmp_path / "x")
    index = {name: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, name in enumerate(tensors)}
    parts = {"model.safetensors.index.json": json.dumps({"weight_map": index}).encode()}
    for file in set(index.values()):
        save_file({name: tensors[name] for name in tensors if index[name] == file}, tmp_path / file)
        parts[file] = (tmp_path / file).read_bytes()
    return {name: data for name, data in files.items() if name != "model.safetensors"} | parts


NEEDED = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}


def run_new(tmp_path, endpoint, *words, **environment):
    """Runs a command line in a new process, whose environment the hub's library reads when it is imported."""
    left_out = ("HF_", "ATTNCLI_", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
    given = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    given |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*"} | environment
    given["ATTNCLI_CACHE"] = os.environ["ATTNCLI_CACHE"]
    return run_forked(*words, folder=tmp_path, environment=given)


def run(tmp_path, endpoint, *words, home="hf", offline=False):
    """Runs a command line in this process, with the constants that the hub's library reads from the environment."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    made = {
        "ENDPOINT": endpoint, "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / home / "hub"), "HF_TOKEN_PATH": str(tmp_path / home / "token"),
        "HF_HUB_OFFLINE": offline,
    }  # fmt: skip
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
    ):
        patch.chdir(tmp_path)
        patch.setenv("NO_PROXY", "*")
        patch.delenv("HF_TOKEN", raising=False)
        for name, value in made.items():
            assert hasattr(constants, name)
            patch.setattr(constants, name, value)
        code = main.run(list(words))
        close_session()  # else the connections to this server stay open
    return Done(code, out.getvalue(), err.getvalue())


def downloaded(tmp_path):
    return {path.name for path in tmp_path.glob("hf/hub/models--*/snapshots/*/*")}


GENERATE = ("generate", "Once", "-m", NAME, "-n", "8", "-t", "0")


def test_a_model_of_the_hub_is_downloaded_once_and_then_read_without_a_connection(files, tmp_path):
    with standing_in(files) as (served, endpoint):
        first = run_new(tmp_path, endpoint, *GENERATE)
        assert (first.returncode, first.stderr) == (0, "")
        assert downloaded(tmp_path) == NEEDED | {"model.safetensors"}
        served.asked.clear()
        again = run_new(tmp_path, endpoint, *GENERATE)
        assert again.stdout == first.stdout
        assert not any("/resolve/" in line for line in served.asked)
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        offline = run_new(tmp_path, endpoint, *GENERATE, **environment)
        assert (offline.returncode, offline.stdout, offline.stderr) == (0, first.stdout, "")
    assert json.loads(run_new(tmp_path, endpoint, "info", "-m", NAME, "--json").stdout)["name"] == NAME


def test_shards_of_the_hub_are_downloaded_as_their_index_says(sharded, files, tmp_path):
    with standing_in(files) as (_, endpoint):
        whole = run(tmp_path, endpoint, *GENERATE, home="other")
    with standing_in(sharded) as (_, endpoint):
        found = run(tmp_path, endpoint, *GENERATE)
    assert (found.returncode, found.stdout) == (0, whole.stdout)
    assert downloaded(tmp_path) == NEEDED | {
        name for name in sharded if name.startswith("model") and "onnx" not in name
    }


def test_a_command_without_weights_downloads_none(files, tmp_path):
    with standing_in(files) as (_, endpoint):
        found = run(tmp_path, endpoint, "tokenize", "ab", "--ids", "-m", NAME, "--revision", COMMIT)
        assert (found.returncode, found.stdout) == (0, "97 98\n")
        assert downloaded(tmp_path) == NEEDED
    offline = run(tmp_path, endpoint, *GENERATE, "--revision", COMMIT)
    assert offline.returncode == 3
    assert "in the hub's cache without its model.safetensors, and the hub cannot be reached" in offline.stderr


@pytest.mark.parametrize(
    ("change", "words", "error", "message"),
    [
        ({}, ("-m", "someone/else"), None, "no model 'someone/else': no such directory, and none on the hub"),
        ({}, ("-m", NAME, "--revision", "v9"), None, "someone/tiny has no revision 'v9'"),
        ({}, ("-m", NAME), (403, "GatedRepo"), "someone/tiny is gated"),
        ({}, ("-m", NAME), (418, "Teapot"), "not in the hub's cache, and the hub answers 418"),
        ({"tokenizer.json": None}, ("-m", NAME), None, "has no tokenizer.json"),
        ({"config.json": None}, ("-m", NAME), None, "has no config.json"),
        ({"model.safetensors": None}, ("-m", NAME), None, "only as pickles"),
        ({"model.safetensors": None, "pytorch_model.bin": None}, ("-m", NAME), None, "has no model.safetensors"),
        ({}, ("--revision", "v9"), None, "--revision is for models of the hub"),
    ],
)
def test_an_error_names_the_fault_of_a_model_of_the_hub(files, tmp_path, change, words, error, message):
    held = {name: data for name, data in files.items() if name not in change}
    with standing_in(held, error) as (_, endpoint):
        found = run(tmp_path, endpoint, "next", "a", *words)
    assert found.returncode == (2 if "-m" not in words else 3)
    assert message in found.stderr
    assert len(found.stderr.splitlines()) <= 2
    assert not any(tmp_path.glob("hf/hub/**/*.bin"))


HTML = b"<!DOCTYPE html><html><body>Accept the terms of this network</body></html>"


@pytest.mark.parametrize(
    "more", [{"instead": HTML}, {"instead": b"{}"}, {"instead": b'{"id": 1, "sha": ["x"]}'}, {"commit": "../../../x"}]
)
def test_an_answer_that_is_not_the_hubs_is_an_error_and_leaves_no_file(files, tmp_path, more):
    with standing_in(files, **more) as (_, endpoint):
        found = run(tmp_path, endpoint, "tokenize", "ab", "--ids", "-m", NAME)
    assert found.returncode == 3
    assert "is not in the hub's cache, and what answers at http://127.0.0.1" in found.stderr
    assert len(found.stderr.splitlines()) <= 2
    assert not any(path.name in files for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"a": ".."}, "names '..', which is not a safetensors file"),
        ({"a": "evil.bin"}, "names 'evil.bin', which is no"),
        ({"a": "evil.py"}, "names 'evil.py', which is no"),
        ({"a": "../x.safetensors"}, "names '../x.safetensors', which is no"),
        ({"a": 7}, "lists no tensors"),
        ({}, "lists no tensors"),
        ({str(at): f"{at}.safetensors" for at in range(1000)}, "names 1,000 files; at most 512 are allowed"),
    ],
)
def test_an_index_is_checked_before_its_files_are_downloaded(tmp_path, index, message):
    (tmp_path / hub.INDEX).write_text(json.dumps({"weight_map": index}))
    with pytest.raises(BadCheckpoint, match=message):
        hub._needed(NAME, {"config.json", "tokenizer.json", hub.INDEX, *map(str, index.values())}, True, tmp_path)


def test_of_a_bad_index_nothing_is_downloaded(sharded, tmp_path):
    bad = {hub.INDEX: json.dumps({"weight_map": {"a": "evil.py"}}).encode(), "evil.py": b"x"}
    with standing_in(sharded | bad) as (served, endpoint):
        found = run(tmp_path, endpoint, *GENERATE)
        assert (found.returncode, "'evil.py'" in found.stderr) == (3, True)
        assert not any("evil" in line for line in served.asked)


@pytest.mark.parametrize("offline", [False, True])
def test_without_a_connection_the_hint_is_to_give_a_directory(tmp_path, offline):
    found = run(tmp_path, "http://127.0.0.1:9", "tokenize", "a", "-m", NAME, offline=offline)
    assert found.returncode == 3
    assert f"not in the hub's cache, and {'HF_HUB_OFFLINE is set' if offline else 'the hub cannot'}" in found.stderr
    assert "give a directory" in found.stderr


def test_a_local_model_is_never_requested_from_the_hub(files, tmp_path):
    folder = tmp_path / NAME
    folder.mkdir(parents=True)
    for name in (*NEEDED, "model.safetensors"):
        (folder / name).write_bytes(files[name])
    (tmp_path / "checkpoints").mkdir()
    with standing_in({}) as (served, endpoint):
        found = run(tmp_path, endpoint, *GENERATE)
        missing = run(tmp_path, endpoint, "next", "a", "-m", "checkpoints/none")
        refused = run(tmp_path, endpoint, *GENERATE, "--revision", "main")
        assert (found.returncode, missing.returncode, refused.returncode) == (0, 3, 2)
        assert served.asked == []


def test_a_download_shows_its_progress_on_a_terminal_and_no_bar_of_the_library(files, tmp_path):
    with standing_in(files) as (_, endpoint):
        parent, child = pty.openpty()
        environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "TERM": "xterm", "COLUMNS": "80"}
        given = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "ATTNCLI_"))}
        command = [sys.executable, "-m", "attncli", "tokenize", "ab", "-m", NAME, "--ids"]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=given | environment, stdin=child, stdout=subprocess.PIPE, stderr=child
        )
        os.close(child)
        seen = b""
        try:
            while part := os.read(parent, 4096):
                seen += part
        except OSError:
            pass  # the client has closed the connection
        assert process.communicate()[0] == b"97 98\n"
        os.close(parent)
    total = sum(len(files[name]) for name in NEEDED)
    assert f"{NAME}: {total / 1e3:.1f} kB of {total / 1e3:.1f} kB" in seen.decode()
    assert "config.json" not in seen.decode()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("a/b", True), ("Qwen/Qwen3-0.6B", True), ("a", False), ("a/b/c", False), ("./a/b", False), ("../b", False)),
        *(("/a/b", False), ("a/", False), ("~/b", False), ("here/m", False), ("checkpoints/x", False), ("", False)),
    ],
)
def test_a_name_with_one_slash_is_of_the_hub_unless_it_exists_here(name, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("here/m").mkdir(parents=True)
    Path("checkpoints").mkdir()
    assert hub.is_of_hub(name) == expected
