"""The FastAPI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware

import dure
from dure.settings import Settings
from dure_gateway import problems
from dure_gateway.middleware.body_limit import BodyLimit
from dure_gateway.routes import chat, health, jobs, openai, personas, web
from dure_gateway.services import Services
from dure_gateway.settings import GatewaySettings


def make_app(settings: Settings, gateway: GatewaySettings) -> FastAPI:
    services = Services(settings, gateway)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.services = services
        async with services.running():
            yield

    app = FastAPI(
        title="dure",
        version=dure.__version__,
        description="한국어 대화 API. Korean chat on cheap computers.",
        lifespan=lifespan,
        middleware=[Middleware(BodyLimit, max_kib=gateway.max_body_kib)],
    )
    problems.install(app)
    for routes in (chat, personas, jobs, openai, health):
        app.include_router(routes.router)
    app.router.routes.extend(web.routes())
    return app
