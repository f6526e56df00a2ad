"""
Who may ask a server: those who have its key, or, where it has none, programs and pages of this machine.

    app = Guard(app, key="", hosts={"localhost", "127.0.0.1", "::1"})

A page of somebody else that is open in a browser here could ask too, through a name of its own that it
lets stand for 127.0.0.1: its requests carry that name, or say where they come from.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from launch.dialogue.reply import refusal
from launch.dialogue.request import RequestError
from launch.flags.serve import KEY

OWN = ("localhost", "127.0.0.1", "::1")


class Guard:
    """
    An application behind a look at who asks it.

    Args:
        app: What answers.
        key: That programs must send; "" lets all ask who come by one of the hosts.
        hosts: Names of this machine, as a request may call it.
    """

    def __init__(self, app: ASGIApp, key: str, hosts: Collection[str]) -> None:
        self._app, self._key, self._hosts = app, key, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        answer = self._app
        if scope["type"] == "http" and (
            error := self._refused(scope["path"], Headers(scope=scope))
        ):
            answer = JSONResponse(refusal(error), error.status)
        await answer(scope, receive, send)

    def _refused(self, path: str, headers: Headers) -> RequestError | None:
        if self._key:
            sent = headers.get("authorization", "").rpartition(" ")[2]  # behind Bearer, bearer
            if not path.startswith("/v1") or hmac.compare_digest(sent.encode(), self._key.encode()):
                return None  # the page itself says nothing
            said = "another one was sent" if sent else "none was sent"
            return RequestError(
                f"This server wants its key, the {KEY} that it was started with, and {said}. Send it as "
                "clients send their API key.", 401, code="invalid_api_key",
            )  # fmt: skip
        for named in (f"//{headers.get('host', '')}", headers.get("origin", "")):
            if named and _host(named) not in self._hosts:
                return RequestError(
                    f"A request by way of {named.removeprefix('//')!r} is not answered: this server is "
                    f"for its own machine. To be asked from elsewhere it must be started with {KEY}.",
                    403,
                )  # fmt: skip
        return None


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
