"""Refuses large bodies, by their announced length and by what really arrives. Plain ASGI: streams pass untouched."""

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dure_gateway.problems import Problem
from dure_gateway.texts import Text, choose_language


class BodyLimit:
    def __init__(self, app: ASGIApp, max_kib: int) -> None:
        self._app = app
        self._max_kib = max_kib

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Request(scope).headers.get("content-length", "0")
        if not announced.isdigit() or int(announced) > self._max_kib * 1024:
            await self._refuse(scope, receive, send)
            return
        try:
            await self._app(scope, self._counted(receive), send)
        except _TooLarge:
            await self._refuse(scope, receive, send)

    def _counted(self, receive: Receive) -> Receive:
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_kib * 1024:
                raise _TooLarge
            return message

        return counted

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        language = choose_language(Request(scope).headers.get("accept-language", ""))
        answer = Problem(413, Text.BODY_TOO_LARGE, values={"limit": self._max_kib}).respond(language)
        await answer(scope, receive, send)


class _TooLarge(Exception):
    """A body without a length went over the limit while it was read."""
