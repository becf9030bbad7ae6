"""The connections of a server with small limits: too slow, too many, not read."""

import json
import re
import socket
import threading
from contextlib import suppress

import pytest

from attncli.serve.server import Connection
from tests.support.serving import LONG, PAGE, running

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


def connected(port):
    return socket.create_connection(("127.0.0.1", port), timeout=LONG)


def rest(connection):
    """Returns what a connection still sends before the server closes it."""
    received = bytearray()
    with suppress(ConnectionResetError):
        while data := connection.recv(1 << 16):
            received += data
    return bytes(received)


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
    head = b"POST /api/next HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
    with running(in_model_folder, connections=1) as port, connected(port) as first:
        first.sendall(head + b"Content-Length: 9\r\n\r\n")
        assert first.recv(12) == b"HTTP/1.1 100"  # the request runs, and its body is missing
        with connected(port) as second:
            answer = rest(second)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in answer.lower()
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]


@pytest.mark.parametrize("sent", [b"", GET, GET + b"\r\n"], ids=["nothing", "half a head", "a request"])
def test_the_connection_that_has_waited_longest_makes_room(sent, in_model_folder):
    """Connections without a request keep nobody out, however many there are."""
    with running(in_model_folder, connections=2) as port:
        idle = [connected(port) for _ in range(4)]
        for one in idle[:2]:
            assert rest(one) == b""
        for one in idle[2:]:
            one.sendall(sent)
            assert not sent.endswith(b"\r\n\r\n") or one.recv(12) == b"HTTP/1.1 200"
        with connected(port) as last:
            last.sendall(GET + b"Connection: close\r\n\r\n")
            assert rest(last).startswith(b"HTTP/1.1 200")
        for one in idle:
            one.close()


LARGE = PAGE + "x" * (64 << 20)


def noted(monkeypatch, name):
    """Returns an event that is set when a connection's method of this name has run."""
    happened, method = threading.Event(), getattr(Connection, name)

    def note(self, *given):
        method(self, *given)
        happened.set()

    monkeypatch.setattr(Connection, name, note)
    return happened


def test_a_client_that_does_not_read_its_answer_is_let_go(in_model_folder, monkeypatch):
    lost = noted(monkeypatch, "connection_lost")
    with running(in_model_folder, LARGE, answer_seconds=0.01) as port, connected(port) as lazy:
        lazy.sendall(GET + b"\r\n")
        assert lost.wait(LONG)
        assert len(rest(lazy)) < len(LARGE)


def test_a_client_that_sends_more_and_reads_nothing_is_let_go(in_model_folder, monkeypatch):
    paused, lost = noted(monkeypatch, "pause_writing"), noted(monkeypatch, "connection_lost")
    with running(in_model_folder, LARGE, answer_seconds=0.5) as port, connected(port) as lazy:
        lazy.sendall(GET + b"\r\n")
        assert paused.wait(LONG)
        received = noted(monkeypatch, "data_received")
        lazy.sendall(GET + b"\r\n")
        assert received.wait(LONG)
        assert lost.wait(LONG)
        assert len(rest(lazy)) < len(LARGE)


def test_a_head_that_begins_while_an_answer_is_not_read_has_as_much_time_as_any(in_model_folder, monkeypatch):
    paused = noted(monkeypatch, "pause_writing")
    with running(in_model_folder, LARGE, head_seconds=0.3) as port, connected(port) as slow:
        slow.sendall(GET + b"\r\n")
        assert paused.wait(LONG)
        received = noted(monkeypatch, "data_received")
        slow.sendall(GET)
        assert received.wait(LONG)
        assert rest(slow).count(b"HTTP/1.1 200") == 1


def test_requests_that_were_sent_together_are_answered_in_order(in_model_folder):
    icon = b"GET /favicon.ico HTTP/1.1\r\nHost: localhost\r\n"
    with running(in_model_folder) as port, connected(port) as eager:
        eager.sendall(GET + b"\r\n" + icon + b"\r\n" + GET + b"Connection: close\r\n\r\n")
        answer = rest(eager)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"204", b"200"]


def test_a_request_with_two_lengths_is_refused_and_nothing_after_it_is_read(in_model_folder):
    """What a proxy takes for its body would otherwise be another request."""
    head = b"POST /api/next HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    lengths = b"Content-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with running(in_model_folder) as port, connected(port) as one:
        one.sendall(head + lengths + GET + b"\r\n")
        assert re.findall(rb"HTTP/1.1 (\d+)", rest(one)) == [b"400"]


def test_the_body_of_a_refused_request_is_read_up_to_the_limit(in_model_folder):
    head = b"POST /api/next HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 1000000000000\r\n\r\n"
    with running(in_model_folder, body=1 << 20) as port, connected(port) as one:
        one.sendall(head)
        assert one.recv(12) == b"HTTP/1.1 421"
        with pytest.raises(ConnectionError):
            for _ in range(10_000):
                one.sendall(b"x" * (1 << 16))
