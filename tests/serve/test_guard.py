"""Who may ask: Host, Origin, the site of a page, the token, the method; and the headers of every answer."""

import asyncio
import itertools

import pytest

from attncli.serve.address import Names, authority, origin
from tests.support.serving import served

TOKEN = "a long token: grün"
PATHS = ["/", "/api/models", "/api/runs", "/nothing"]

GOOD_HOSTS = [
    "127.0.0.1", "127.0.0.1:8000", "localhost", "localhost:8000", "LOCALHOST:8000", "LocalHost", "[::1]", "[::1]:8000",
    "[0:0:0:0:0:0:0:1]:8000", "127.0.0.1:65535", "localhost:1",
]  # fmt: skip
BAD_HOSTS = [
    "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "evil.example@localhost",
    "localhost@evil.example", "localhost:8000@evil.example", "::1", "::1:8000", "[::1", "::1]", "[::1]x", "[::1]:",
    "[::1]8000", "[::2]", "[::ffff:127.0.0.1]", "[localhost]", "[127.0.0.1]", "127.1", "127.0.0.2", "0.0.0.0",
    "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.0.0.01", "localhost.", "localhost:", "localhost:0",
    "localhost:65536", "localhost:80:80", "localhost:8000/", "localhost,evil.example", "localhost evil.example", "",
    " ", "*", "localhost:-1", "localhost:８０", "[::1%25lo]", "[::1]:8000:1", "192.168.0.1",
]  # fmt: skip


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_the_names_of_this_machine_are_answered(host, here):
    assert here.client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_every_other_host_is_refused_on_every_route(host, here):
    for path in PATHS:
        answer = here.client.get(path, headers={"Host": host.encode()})
        assert answer.status_code == 421
        assert answer.json()["error"]["message"] == "The header Host names another server."


@pytest.mark.parametrize("hosts", [[], [b"localhost", b"localhost"], [b"localhost", b"evil.example"]])
def test_a_request_names_one_host(hosts, here):
    headers, sent = [(b"host", host) for host in hosts], []
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}

    async def send(message):
        sent.append(message)

    asyncio.run(here.client.app(scope, None, send))
    assert sent[0]["status"] == 421


ORIGINS = [
    ("localhost:8000", "http://localhost:8000", 200),
    ("localhost:8000", "HTTP://LOCALHOST:8000", 200),
    ("[::1]:8000", "http://[::1]:8000", 200),
    ("localhost", "http://localhost:80", 200),
    ("localhost:8000", "http://127.0.0.1:8000", 403),
    ("localhost:8000", "http://localhost:9999", 403),
    ("localhost:8000", "http://localhost", 403),
    ("localhost:8000", "https://localhost:8000", 403),
    ("localhost:8000", "http://evil.example", 403),
    ("localhost:8000", "http://localhost:8000.evil.example", 403),
    ("localhost:8000", "http://localhost:8000@evil.example", 403),
    ("localhost:8000", "http://evil.example#localhost:8000", 403),
    ("localhost:8000", "file://", 403),
    ("localhost:8000", "null", 403),
    ("localhost:8000", "", 403),
    ("localhost:8000", "localhost:8000", 403),
    ("localhost:8000", "chrome-extension://abc", 403),
]


@pytest.mark.parametrize(("host", "given", "status"), ORIGINS)
def test_only_the_page_of_this_server_is_an_origin(host, given, status, here):
    for path in PATHS[:3]:
        assert here.client.get(path, headers={"Host": host, "Origin": given}).status_code == status
    answer = here.client.post("/api/next", json={"text": "a"}, headers={"Host": host, "Origin": given})
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("site", "page", "api"),
    [("same-origin", 200, 200), ("none", 200, 200), ("same-site", 200, 403), ("cross-site", 200, 403)],
)
def test_another_site_may_link_to_the_page_and_load_nothing_else(site, page, api, here):
    headers = {"Sec-Fetch-Site": site}
    assert here.client.get("/", headers=headers).status_code == page
    assert here.client.get("/api/models", headers=headers).status_code == api
    assert here.client.post("/api/next", json={"text": "a"}, headers=headers).status_code == api


def test_a_form_of_another_site_is_refused_even_without_an_origin(here):
    for kind in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", ""):
        answer = here.client.post("/api/next", content=b'{"text": "a"}', headers={"Content-Type": kind})
        assert answer.status_code == 415
    kinds = ("application/json", "Application/JSON; charset=utf-8")
    assert {
        here.client.post("/api/next", content=b'{"text": "a"}', headers={"Content-Type": kind}).status_code
        for kind in kinds
    } == {200}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "FROBNICATE"])
def test_only_get_and_post_are_answered(method, here):
    for path in PATHS:
        answer = here.client.request(method, path)
        assert answer.status_code == 405
        assert answer.headers["Allow"] == "GET, POST"


def test_a_known_address_refuses_the_other_method(here):
    assert here.client.post("/").status_code == 405
    assert here.client.post("/api/models").status_code == 405
    answer = here.client.get("/api/next")
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "POST"
    assert answer.json()["error"]["message"]
    assert here.client.get("/api").status_code == here.client.get("/api/models/").status_code == 404
    assert here.client.get("/api/runs/../../etc/passwd").status_code == 404


def test_every_answer_has_the_headers_that_keep_other_sites_out(here):
    answers = [here.client.get(path) for path in PATHS]
    answers += [
        here.client.get("/", headers={"Host": "evil.example"}),
        here.post("/api/next", {}),
        here.client.put("/"),
    ]
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Content-Security-Policy"].endswith("frame-ancestors 'none'")
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        assert "server" not in answer.headers
    assert answers[0].headers["Content-Security-Policy"].startswith("default-src 'none'; connect-src 'self'; ")
    assert {one.headers["Content-Security-Policy"].partition(";")[0] for one in answers[1:]} == {"default-src 'none'"}


# The token


@pytest.fixture
def guarded(in_model_folder):
    with served(in_model_folder, token=TOKEN, host="0.0.0.0") as one:
        yield one


def test_nothing_is_answered_without_the_token(guarded):
    wrong = ["", "a", TOKEN[:-1], f"{TOKEN}x", TOKEN.upper(), "null", "\x00"]
    for path in PATHS:
        assert guarded.client.get(path).status_code == 401
    for token, path in itertools.product(wrong, PATHS):
        assert guarded.client.get(path, params={"token": token}).status_code == 401
        bearer = f"Bearer {token}".encode()
        answer = guarded.client.get(path, headers={"Authorization": bearer})
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for scheme in (b"Basic", b"", b"Token"):
        assert guarded.client.get("/", headers={"Authorization": scheme + b" " + TOKEN.encode()}).status_code == 401
    assert guarded.client.get("/", headers={"Cookie": "attncli_8000=x; attncli_80=; attncli_8000"}).status_code == 401


def test_the_token_is_a_bearer_for_programs(guarded):
    headers = {"Authorization": b"bEaReR " + TOKEN.encode()}
    assert guarded.client.get("/api/models", headers=headers).status_code == 200
    assert guarded.post("/api/next", {"text": "a"}, headers=headers).status_code == 200


def test_the_token_in_the_address_sets_a_cookie_and_leads_to_the_page(guarded):
    entered = guarded.client.get("/", params={"token": TOKEN})
    assert entered.status_code == 200
    assert 'content="0;url=/"' in entered.text
    assert "a page" not in entered.text
    cookie = entered.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/" in cookie
    assert TOKEN not in cookie
    assert "a page" in guarded.client.get("/").text  # the client has kept the cookie
    assert guarded.client.get("/api/models").status_code == 200


def test_the_token_counts_in_no_other_address(guarded):
    assert guarded.client.get("/api/models", params={"token": TOKEN}).status_code == 401
    assert guarded.client.post("/", params={"token": TOKEN}).status_code == 401


def test_on_another_address_every_ip_address_and_the_name_of_the_machine_are_known(guarded, monkeypatch):
    headers = {"Authorization": b"Bearer " + TOKEN.encode()}
    for host, status in (
        ("192.168.0.1:8000", 200), ("[fe80::1]", 200), ("localhost", 200), ("evil.example", 421), ("999.1.1.1", 421),
    ):  # fmt: skip
        assert guarded.client.get("/", headers={**headers, "Host": host}).status_code == status
    monkeypatch.setattr("socket.gethostname", lambda: "Desk.School.Example")
    names = Names.of("0.0.0.0")
    assert all(names.allow(name) for name in ("desk.school.example", "desk", "desk.local"))
    assert not names.allow("school.example")
    assert Names.of("192.168.0.7").allow("192.168.0.8")
    assert not Names.of("::1").allow("192.168.0.8")


def test_authority_and_origin_parse_only_what_they_should():
    assert authority("[0:0::1]:8000") == ("::1", 8000)
    assert authority("EXAMPLE.org") == ("example.org", 80)
    assert authority("a" * 254) is None
    assert origin("http://x") == ("x", 80)
    assert origin("http:/x") is None
