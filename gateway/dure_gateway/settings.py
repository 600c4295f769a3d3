"""Settings of the gateway, from variables named DURE_GATEWAY_<FIELD>."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from dure.settings import SectionSettings

Port = Annotated[int, Field(ge=1, le=65535)]


class GatewaySettings(SectionSettings):
    model_config = SettingsConfigDict(env_prefix="DURE_GATEWAY_")

    host: str = Field(default="127.0.0.1", description="Address to listen on. 0.0.0.0: all of this machine.")
    port: Port = Field(default=8000, description="The API, its documentation and the chat page.")
    web_port: Port = Field(default=5000, description="The same once more, where people expect the chat page.")
    # About 100 minutes of work for one small box: nobody waits longer, so later requests are refused at once (429).
    max_queued: int = Field(
        default=1000, ge=1, description="Jobs that may wait. Further ones get 429 with Retry-After."
    )
    max_streams: int = Field(
        default=512, ge=1, description="Answers followed at once, one Redis connection each (503 beyond)."
    )
    max_body_kib: int = Field(default=256, ge=1, le=65536, description="Largest request body (413 beyond).")
    max_tokens: int = Field(default=256, ge=1, description="Length of an answer when the request names none.")
    personas: Path | None = Field(
        default=None,
        description="Folder with styles and personalities of your own. Unset: `personas` in the state folder, if it is "
        "there. Read once; a file that cannot be used stops the start.",
    )
    deadline_s: float = Field(
        default=300, ge=1, le=590, description="A job unanswered for so long fails with `expired` or `deadline`."
    )
