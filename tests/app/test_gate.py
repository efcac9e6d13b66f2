"""Without the token nothing of the page is reached: no file, no upload, no socket."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import MutableMapping
from typing import Any

import pytest

from detxai.app import gate
from detxai.app.gate import COOKIE, Gate
from detxai.app.options import LOOPBACK

TOKEN = "a-token"


def ask(
    kind: str = "http",
    headers: dict[str, str] | None = None,
    query: str = "",
    *,
    token: str | None = TOKEN,
    hosts: tuple[str, ...] | None = None,
) -> tuple[bool, list[MutableMapping[str, Any]]]:
    """Whether the page was reached, and what was sent back."""
    reached: list[str] = []
    sent: list[MutableMapping[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["type"])

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("nothing of a request's body is read before its token is")

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    scope = {"type": kind, "headers": raw, "query_string": query.encode(), "path": "/_stcore/upload_file/a/b"}
    asyncio.run(Gate(app, token, hosts)(scope, receive, send))
    return bool(reached), sent


@pytest.mark.parametrize(
    "cookie", ["", f"{COOKIE}=", f"{COOKIE}=a-toke", f"{COOKIE}=a-tokenn", f"other={TOKEN}", "\xff;;="]
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_no_token_no_page(kind: str, cookie: str) -> None:
    reached, sent = ask(kind, {"Cookie": cookie} if cookie else {})
    assert not reached
    if kind == "websocket":
        assert sent == [{"type": "websocket.close", "code": 1008}]
    else:
        assert sent[0]["status"] == 401
        assert TOKEN.encode() not in sent[1]["body"]


def test_the_token_in_the_address_becomes_a_cookie_that_opens() -> None:
    reached, (start, _) = ask(query=f"token={TOKEN}")
    assert not reached, "the token leaves the address first"
    headers = dict(start["headers"])
    assert (start["status"], headers[b"location"]) == (303, b"/")
    cookie = headers[b"set-cookie"].decode()
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    for kind in ("http", "websocket"):
        assert ask(kind, {"Cookie": f"a=b; {cookie.partition(';')[0]}"})[0]
    assert not ask("websocket", query=f"token={TOKEN}")[0]
    assert ask(query="token=wrong")[1][0]["status"] == 401


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    in_constant_time = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return in_constant_time(one, other)

    monkeypatch.setattr(gate.hmac, "compare_digest", compare)
    ask(headers={"Cookie": f"{COOKIE}=guess"})
    assert compared[0] == (b"guess", TOKEN.encode())


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [("127.0.0.1:8501", True), ("localhost", True), ("[::1]:8501", True), ("LOCALHOST:1", True),
     ("evil.example", False), ("127.0.0.1.evil.example:8501", False), ("", False)],
)  # fmt: skip
def test_on_loopback_other_names_are_refused(host: str, is_ours: bool) -> None:
    reached, sent = ask(headers={"Host": host}, token=None, hosts=LOOPBACK)
    assert reached == is_ours
    assert is_ours or sent[0]["status"] == 403
