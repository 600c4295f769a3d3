"""Refuses large bodies, by their announced length and by what really arrives. Plain ASGI: streams pass untouched."""

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dure_gateway.problems import Problem, language_of
from dure_gateway.texts import Text


class BodyLimit:
    def __init__(self, app: ASGIApp, max_kib: int) -> None:
        self._app = app
        self._max_kib = max_kib

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Request(scope).headers
        announced = headers.get("content-length", "0")
        read: list[Message] | None = []
        if not announced.isdigit() or int(announced) > self._max_bytes:
            read = None
        elif "transfer-encoding" in headers:  # no length to trust: read it before anyone else does
            read = await self._read(receive)
        if read is None:
            await self._refuse(scope, receive, send)
        else:
            await self._app(scope, _replay(read, receive), send)

    @property
    def _max_bytes(self) -> int:
        return self._max_kib * 1024

    async def _read(self, receive: Receive) -> list[Message] | None:
        """The body's messages, or None as soon as they are too many."""
        messages: list[Message] = []
        num_bytes = 0
        while True:
            message = await receive()
            messages.append(message)
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                return None
            if not message.get("more_body"):
                return messages

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = Problem(413, Text.BODY_TOO_LARGE, values={"limit": self._max_kib})
        answer = problem.respond(language_of(Request(scope)))
        await answer(scope, receive, send)


def _replay(messages: list[Message], receive: Receive) -> Receive:
    rest = iter(messages)

    async def replayed() -> Message:
        return next(rest, None) or await receive()

    return replayed
