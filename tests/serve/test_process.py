"""The command: its address, what it refuses to start with, what its connections survive, and how it ends."""

import http.client
import json
import os
import re
import signal
import socket
from contextlib import contextmanager

import pytest

from attncli.serve.server import address_of, open_socket
from tests.support.commands import ask, start
from tests.support.forking import ForkedCommand

TOKEN = "correct-horse&battery=staple"
LINE = re.compile(r"^m is at (http://(?:127\.0\.0\.1|\[::1\]):(\d+)/\S*) until Ctrl-C\n$")


@contextmanager
def serving(folder, *options, begin=ForkedCommand):
    """Starts the command on a free port; yields the process, its address and its port."""
    (folder / "checkpoints").mkdir(exist_ok=True)
    process = begin("serve", "-m", "m", "--port", "0", *options, folder=folder)
    try:
        line = process.stderr.readline()
        found = LINE.match(line)
        assert found, line + process.stderr.read()
        yield process, found[1], int(found[2])
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def asked(port, path="/", method="GET", body=None, host="127.0.0.1", **headers):
    connection = http.client.HTTPConnection(host, port, timeout=60)
    given = {"Content-Type": "application/json", **headers}
    connection.request(method, path, None if body is None else json.dumps(body), given)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer, data


def raw(port, *parts):
    """Sends bytes and returns everything that comes back until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        for part in parts:
            connection.sendall(part)
        received = b""
        while data := connection.recv(65536):
            received += data
    return received


@pytest.fixture(scope="module")
def running(model_folder, compiled):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ATTNCLI_CACHE", str(compiled.parent))
        with serving(model_folder, begin=start) as one:
            yield one


def test_the_page_and_its_data_are_served(running):
    _, address, port = running
    answer, page = asked(port)
    assert address == f"http://127.0.0.1:{port}/"
    assert (answer.status, page[:15].lower()) == (200, b"<!doctype html>")
    assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]
    answer, data = asked(port, "/api/page", "POST", {"text": "Once upon", "client": "a", "number": 1})
    assert (answer.status, data[:1]) == (200, b"\x78")  # a zlib stream
    assert asked(port, "/api/page", "POST", {"text": "Once", "client": "a", "number": 1})[0].status == 409
    assert json.loads(asked(port, "/api/models")[1])["models"][0]["name"] == "m"


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1:x", "[::1", ""])
def test_another_host_is_refused(host, running):
    assert asked(running[2], Host=host)[0].status == 421


def test_another_origin_is_refused(running):
    port = running[2]
    assert asked(port, "/api/page", "POST", {"text": "a"}, Origin="http://evil.example")[0].status == 403
    own = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}
    assert asked(port, "/api/page", "POST", {"text": "a"}, **own)[0].status == 200


HOST = b"Host: localhost\r\n"
REQUESTS = {
    "no-http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no-host": b"GET / HTTP/1.1\r\n\r\n",
    "two-hosts": b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "two-lengths": b"POST /api/next HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "negative-length": b"POST /api/next HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
    "long-head": b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 70_000,
}


@pytest.mark.parametrize("name", REQUESTS)
def test_garbage_is_answered_in_the_form_of_all_errors_and_the_server_goes_on(name, running):
    head, _, body = raw(running[2], REQUESTS[name]).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["message"]
    assert asked(running[2])[0].status == 200


def test_an_old_client_without_a_host_is_refused(running):
    assert raw(running[2], b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 421 ")


def test_a_huge_body_is_refused_before_it_is_read(running):
    head = b"POST /api/page HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    assert raw(running[2], head + b"Content-Length: 1000000000000\r\n\r\n").startswith(b"HTTP/1.1 413 ")
    chunks = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + b"x" * 65536 + b"\r\n"
    rest = [b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 15
    assert raw(running[2], chunks, *rest, b"1\r\nx\r\n").startswith(b"HTTP/1.1 413 ")
    assert asked(running[2])[0].status == 200


def test_a_client_that_leaves_harms_nothing(running):
    port = running[2]
    body = json.dumps({"text": "a b " * 20}).encode()
    head = b"POST /api/page HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    for sent in (head, head + b"Content-Length: 100\r\n\r\n{", head + b"Content-Length: %d\r\n\r\n" % len(body) + body):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(sent)
    assert asked(port, "/api/next", "POST", {"text": "a"})[0].status == 200


# The token, the browser and the end


def test_the_browser_opens_the_address_whose_token_opens_the_page(in_model_folder, tmp_path):
    """The browser is a program that writes its argument to a pipe. A signal then ends the server."""
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}\n')
    browser.chmod(0o755)
    os.mkfifo(opened)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("BROWSER", f"{browser} %s")
        with serving(in_model_folder, "--open", "--token", TOKEN) as (process, address, port):
            assert address == f"http://127.0.0.1:{port}/"  # a log keeps no token
            entry = "/?token=correct-horse%26battery%3Dstaple"
            assert opened.read_text() == f"{address.rstrip('/')}{entry}"
            assert asked(port)[0].status == asked(port, "/?token=wrong-token")[0].status == 401
            entered, _ = asked(port, entry)
            assert entered.status == 200
            cookie = entered.headers["Set-Cookie"].partition(";")[0]
            assert asked(port, Cookie=cookie)[0].status == 200
            assert asked(port, "/api/models", Authorization=f"Bearer {TOKEN}")[0].status == 200
            assert ended(process, signal.SIGINT) == ("", "Stopped.\n", 130)


def ended(process, number):
    """Sends a signal to a server; returns its standard output and error, and its exit code."""
    process.send_signal(number)
    return *process.communicate(), process.returncode


def test_a_signal_ends_the_server_also_during_requests(in_model_folder):
    head = b"POST /api/page HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    with serving(in_model_folder) as (process, _, port):
        idle, half = (socket.create_connection(("127.0.0.1", port)) for _ in range(2))
        half.sendall(head)
        assert asked(port)[0].status == 200
        assert ended(process, signal.SIGTERM) == ("", "Stopped.\n", 143)
        idle.close()
        half.close()


def test_sigterm_lets_a_running_text_end(in_model_folder):
    """A text of this length takes a tenth of a second or more, and the signal arrives after its first tokens."""
    fields = {"prompt": "a", "max_tokens": 400, "seed": 1, "stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps(fields | {"logit_bias": {"0": -100}}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    with (
        serving(in_model_folder, "--api-key", TOKEN) as (process, _, port),
        socket.create_connection(("127.0.0.1", port), timeout=60) as connection,
    ):
        head += b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n" % (TOKEN.encode(), len(body))
        connection.sendall(head + body)
        received = connection.recv(65536)
        assert received.startswith(b"HTTP/1.1 200 ")
        process.send_signal(signal.SIGTERM)
        while data := connection.recv(65536):
            received += data
        assert b"data: [DONE]" in received
        assert b'"finish_reason": "length"' in received or b'"finish_reason": "stop"' in received
        process.communicate()
        assert process.returncode == 143


# What it does not start with


def test_a_port_in_use_is_one_error(in_model_folder, capsys):
    with open_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        code, out, err = ask(capsys, "serve", "--port", str(port))
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == f"error: --port {port} is in use on 127.0.0.1."
    assert "--port" in err.splitlines()[1]
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines ask, so it needs --token."),
        (["--host", "::"], "--host :: lets other machines ask, so it needs --token."),
        (["--host", "localhost.evil.example"], "--host localhost.evil.example lets other machines ask"),
        (["--host", "203.0.113.9", "--token", TOKEN], "--host '203.0.113.9' is no address of this machine."),
        (["--host", "not a host", "--token", TOKEN], "--host 'not a host' is no address of this machine."),
        (["--host", "x" * 300, "--token", TOKEN], "--host 'xxx"),
        (["--token", "short"], "--api-key must be at least 8 characters, without spaces."),
        (["--api-key", "with a space"], "--api-key must be at least"),
        (["--token", "nine\x00nine"], "--api-key must be at least"),
        (["--port", "65536"], "--port is 65536, and must be from 0 to 65,535."),
        (["--port", "-1"], "--port is -1, and must be"),
        (["-m", "nothing"], "There is no model 'nothing'"),
    ],
)
def test_a_wrong_option_is_an_error(options, message, in_model_folder, capsys, monkeypatch):
    def resolve(host, *arguments, **more):
        if host.replace(".", "").isdigit():
            return real(host, *arguments, **more)
        raise socket.gaierror("no network in tests")

    real = socket.getaddrinfo
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", resolve)
        code, out, err = ask(capsys, "serve", "--port", "0", *options)
    assert (code, out) == (3 if "-m" in options else 2, "")
    assert err.startswith(f"error: {message}")
    assert not any(secret in err for secret in ("short", "with a space", "nine"))


@pytest.mark.parametrize("missing", [["starlette"], ["uvicorn"], ["starlette", "uvicorn"]])
def test_without_the_extra_the_error_says_how_to_install_it(missing, monkeypatch, capsys):
    monkeypatch.setattr("attncli.cli.serve.find_spec", lambda name: None if name in missing else True)
    code, _, err = ask(capsys, "serve")
    assert code == 2
    assert " and ".join(missing) in err
    assert "pip install 'attncli[serve]'" in err


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_answer_is_sent_without_delay(host):
    """asyncio turns Nagle's algorithm off for a socket whose protocol it knows."""
    with open_socket(host, 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP


def test_the_address_of_a_server_can_be_opened(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "desk")
    with open_socket("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        assert address_of(listening, "127.0.0.1") == f"http://127.0.0.1:{port}/"
        assert address_of(listening, "::1") == f"http://[::1]:{port}/"
        assert address_of(listening, "0.0.0.0", "a&b") == f"http://desk:{port}/?token=a%26b"
