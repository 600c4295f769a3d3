"""Errors as clients see them: one shape, in Korean or English.

{"error": {"code", "message", "field", "remedy", "type", "param"}}: `code` is stable, `message` says what is wrong with
which value, `remedy` what to do. `type` and `param` repeat kind and field under the names that OpenAI clients read.
"""

import logging
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from dure.errors import IdempotencyConflict, PersonaUnknown, QueueFull, StoreError, StoreUnavailable
from dure_gateway.texts import Text, choose_language, validation_text

log = logging.getLogger(__name__)

# How long clients should stay away. A Redis restart takes a few seconds; a queue place frees as one answer ends.
_RETRY_REDIS_S = 5
_RETRY_QUEUE_S = 10


@dataclass
class Problem(Exception):
    """An error answer. `values` fill the text's placeholders."""

    status: int
    text: Text
    field: str | None = None
    values: dict[str, Any] | None = None
    retry_after_s: int | None = None

    def describe(self, language: str) -> dict[str, Any]:
        message, remedy = self.text.render(language, self.values or {})
        return {
            "code": self.text.code,
            "message": message,
            "field": self.field,
            "remedy": remedy,
            "type": "invalid_request_error" if self.status < 500 else "server_error",  # noqa: PLR2004
            "param": self.field,
        }

    def respond(self, language: str) -> JSONResponse:
        headers = {"Retry-After": str(self.retry_after_s)} if self.retry_after_s else None
        return JSONResponse({"error": self.describe(language)}, self.status, headers)


def install(app: FastAPI) -> None:
    """Translate every error that leaves a route, at this one border."""

    @app.exception_handler(Problem)
    async def on_problem(request: Request, problem: Problem) -> JSONResponse:
        return problem.respond(language_of(request))

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _invalid(error).respond(language_of(request))

    @app.exception_handler(PersonaUnknown)
    async def on_persona(request: Request, error: PersonaUnknown) -> JSONResponse:
        values = {"expected": ", ".join(error.known), "near": error.near}
        return Problem(422, Text.NOT_A_CHOICE, error.field, values).respond(language_of(request))

    @app.exception_handler(StoreError)
    async def on_store(request: Request, error: StoreError) -> JSONResponse:
        if not isinstance(error, QueueFull | IdempotencyConflict):
            log.warning("%s", error, extra={"action": "store.refused"})
        return _store_problem(error).respond(language_of(request))

    @app.exception_handler(StarletteHTTPException)
    async def on_http(request: Request, error: StarletteHTTPException) -> JSONResponse:
        text = {404: Text.NO_SUCH_PATH, 405: Text.WRONG_METHOD}.get(error.status_code, Text.REFUSED)
        return Problem(error.status_code, text, values={"path": request.url.path}).respond(language_of(request))


def language_of(request: Request) -> str:
    return choose_language(request.headers.get("accept-language", ""))


def _invalid(error: RequestValidationError) -> Problem:
    first = error.errors()[0]
    where = [str(part) for part in first["loc"] if _is_field(part)]
    text, values = validation_text(first)
    status = 400 if first["type"] == "json_invalid" else 422
    return Problem(status, text, ".".join(where) or None, values)


def _is_field(part: str | int) -> bool:
    """Whether a part of pydantic's location is a field or an index of the client's, not a branch of a union."""
    return isinstance(part, int) or (
        part not in {"body", "query", "path", "header"}
        and (part.islower() or part.isdigit())
        and "[" not in part
        and part not in {"str", "constrained-str"}
    )


def _store_problem(error: StoreError) -> Problem:
    if isinstance(error, QueueFull):
        return Problem(429, Text.QUEUE_FULL, values={"num": error.num_queued}, retry_after_s=_RETRY_QUEUE_S)
    if isinstance(error, IdempotencyConflict):
        return Problem(409, Text.IDEMPOTENCY_CONFLICT, "Idempotency-Key")
    if isinstance(error, StoreUnavailable):
        return Problem(503, Text.REDIS_AWAY, retry_after_s=_RETRY_REDIS_S)
    return Problem(503, Text.REDIS_REFUSED, retry_after_s=_RETRY_REDIS_S)
