"""The chat page: each file of `web/` under its own path, so that wrong paths and methods are still told apart."""

from importlib.resources import files
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

_FOLDER = Path(str(files("dure_gateway"))) / "web"
# The page may only load and call what lies beside it, whatever a model writes into it.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def routes() -> list[Route]:
    return [_route(path) for path in sorted(_FOLDER.iterdir()) if path.is_file()]


def _route(path: Path) -> Route:
    async def serve(_: Request) -> FileResponse:
        return FileResponse(path, headers=_HEADERS)

    return Route("/" if path.name == "index.html" else f"/{path.name}", serve, methods=["GET"], name=path.name)
