"""GET /api/personas: how an answer may speak."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from dure_gateway.services import Services, services

router = APIRouter(tags=["chat"])


@router.get("/api/personas")
async def personas(shared: Annotated[Services, Depends(services)]) -> dict[str, list[dict[str, Any]]]:
    """Names for `style` and `personality`, with titles in Korean and English; the operator's own come last."""
    return shared.personas.listed()
