"""/healthz: this process lives. /readyz: a question asked now will be answered."""

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from dure.errors import StoreError
from dure_gateway.services import Services, services

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(shared: Annotated[Services, Depends(services)]) -> JSONResponse:
    """503 with what is missing and how to get it, until Redis answers and a worker is there."""
    try:
        workers = await to_thread.run_sync(shared.router.workers)
    except StoreError as error:
        return _answer([{"what": "redis", "why": str(error), "remedy": "start Redis, or check DURE_REDIS_URL"}], [])
    listed = [{"name": worker.name, "model": worker.model, "slots": worker.num_slots} for worker in workers]
    missing = []
    if not workers:
        missing.append({"what": "worker", "why": "no worker has announced itself", "remedy": "run `dure worker`"})
    return _answer(missing, listed)


def _answer(missing: list[dict[str, str]], workers: list[dict[str, Any]]) -> JSONResponse:
    return JSONResponse({"ready": not missing, "missing": missing, "workers": workers}, 503 if missing else 200)
