"""Who may see the page: checked for every request, before anything else happens."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeAlias
from urllib.parse import parse_qs

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "detxai_token"
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>detxai</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<body style="font-family: sans-serif; max-width: 32rem; margin: 4rem auto; padding: 0 1rem">
<h1>detxai</h1><p>{message}</p>
<form action="/" method="get"><label>Token <input name="token" type="password" autocomplete="off" autofocus></label>
<button>Open</button></form></body></html>"""
ASKS = "This page asks for the token that the command <code>detxai app</code> printed."


class Gate:
    """An ASGI middleware: requests with the right token, and under an expected name, reach the page; others do not.

    Also uploads and web sockets. The token comes once, in the address (``/?token=...``), and is then kept in a cookie
    that scripts cannot read and other sites cannot send.

    Args:
        app: what is guarded.
        token: to be known; None: none.
        hosts: names under which a browser may ask for the page; None: any. A page of another site could otherwise
            reach one on loopback by giving its own name this machine's address (DNS rebinding).
    """

    def __init__(self, app: Asgi, token: str | None = None, hosts: Collection[str] | None = None) -> None:
        self.app = app
        self.token = token
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope.get("headers", [])}
        if self.hosts is not None and _host(headers.get(b"host", "")) not in self.hosts:
            await _refuse(scope, send, 403, "This page is served under other names.")
        elif self.token is None or self._is_token(_cookie(headers.get(b"cookie", ""))):
            await self.app(scope, receive, send)
        else:
            await self._ask(scope, send)

    async def _ask(self, scope: Scope, send: Send) -> None:
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        if scope["type"] == "http" and self._is_token(given):
            cookie = f"{COOKIE}={given}; HttpOnly; SameSite=Strict; Path=/"
            await _respond(send, 303, "", [(b"location", b"/"), (b"set-cookie", cookie.encode("latin-1"))])
            return
        await _refuse(scope, send, 401, f"That is not the token. {ASKS}" if given else ASKS)

    def _is_token(self, given: str) -> bool:
        """In a time that says nothing about where it differs."""
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())


def _host(value: str) -> str:
    """The name in a Host header, without its port."""
    return value[1 : value.find("]")] if value.startswith("[") else value.partition(":")[0].lower()


def _cookie(value: str) -> str:
    try:
        morsel = SimpleCookie(value).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


async def _refuse(scope: Scope, send: Send, status: int, message: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await _respond(send, status, PAGE.format(message=message), [])


async def _respond(send: Send, status: int, body: str, headers: list[tuple[bytes, bytes]]) -> None:
    kind = [(b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": kind + headers})
    await send({"type": "http.response.body", "body": body.encode()})
