"""The connections of a server with small limits: too slow, too many, not read."""

import json
import re
import socket
import threading

import pytest

from attncli.serve.server import Connection
from tests.support.serving import LONG, PAGE, running

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


def connected(port):
    return socket.create_connection(("127.0.0.1", port), timeout=LONG)


def rest(connection):
    """Returns what a connection still sends before the server closes it."""
    received = b""
    try:
        while data := connection.recv(1 << 16):
            received += data
    except ConnectionResetError:
        return received
    return received


@pytest.mark.parametrize("sent", [b"", b"GET", GET])
def test_a_head_that_does_not_arrive_closes_the_connection(sent, in_model_folder):
    with running(in_model_folder, head_seconds=0.01) as port, connected(port) as slow:
        slow.sendall(sent)
        assert rest(slow) == b""


def test_a_second_head_has_as_much_time_as_the_first(in_model_folder):
    with running(in_model_folder, head_seconds=0.3) as port, connected(port) as slow:
        slow.sendall(GET + b"\r\n")
        answer = slow.recv(1 << 16)
        while b"a page" not in answer:
            answer += slow.recv(1 << 16)
        slow.sendall(GET)
        assert rest(slow) == b""


def test_a_body_that_does_not_arrive_is_refused(in_model_folder):
    head = b"POST /api/next HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    with running(in_model_folder, body_seconds=0.01) as port, connected(port) as slow:
        slow.sendall(head)
        answer = rest(slow)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["hint"] == "Send it again."


def test_one_connection_too_many_is_told_when_to_come_back(in_model_folder):
    with running(in_model_folder, connections=1) as port, connected(port) as first:
        first.sendall(GET + b"\r\n")
        assert first.recv(12) == b"HTTP/1.1 200"
        with connected(port) as second:
            answer = rest(second)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in answer.lower()
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]


def test_a_client_that_does_not_read_its_answer_is_let_go(in_model_folder, monkeypatch):
    lost = threading.Event()
    connection_lost = Connection.connection_lost

    def note(self, problem):
        connection_lost(self, problem)
        lost.set()

    monkeypatch.setattr(Connection, "connection_lost", note)
    page = PAGE + "x" * (64 << 20)
    with running(in_model_folder, page, answer_seconds=0.01) as port, connected(port) as lazy:
        lazy.sendall(GET + b"\r\n")
        assert lost.wait(LONG)
        assert len(rest(lazy)) < len(page)


def test_requests_that_were_sent_together_are_answered_in_order(in_model_folder):
    icon = b"GET /favicon.ico HTTP/1.1\r\nHost: localhost\r\n"
    with running(in_model_folder) as port, connected(port) as eager:
        eager.sendall(GET + b"\r\n" + icon + b"\r\n" + GET + b"Connection: close\r\n\r\n")
        answer = rest(eager)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"204", b"200"]
