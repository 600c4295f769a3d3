"""Settings that every process shares.

Each process builds one frozen object at its start and passes it on. The environment is read nowhere else. Values come
from variables named DURE_<FIELD>; a variable with the prefix that names no field is refused, so a misspelt option is
never silently dropped.
"""

import difflib
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import urlencode

import platformdirs
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from dure.errors import SettingsError

# Sections owned by one program; the common section leaves them to that program's own check.
_SECTIONS = ("DURE_GATEWAY_", "DURE_WORKER_")


class SectionSettings(BaseSettings):
    """A group of settings under one prefix of environment variables."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", case_sensitive=False)

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Read the environment once.

        Raises SettingsError, which names variable, value and what was wanted.
        """
        environ = os.environ if environ is None else environ
        prefix = cls.model_config["env_prefix"]
        values = cls._values(environ, prefix)
        try:
            # _env_prefix is pointed away so that `environ` is the only source.
            return cls(**{**values, **overrides}, _env_prefix="DURE UNREAD ")
        except ValidationError as error:
            raise SettingsError(_explain(error, prefix)) from None

    @classmethod
    def _values(cls, environ: Mapping[str, str], prefix: str) -> dict[str, str]:
        values: dict[str, str] = {}
        for variable, value in environ.items():
            if not variable.startswith(prefix) or cls._is_foreign(variable, prefix):
                continue
            field = variable.removeprefix(prefix).lower()
            if field not in cls.model_fields:
                raise SettingsError(_unknown(variable, [prefix + name.upper() for name in cls.model_fields]))
            values[field] = value
        return values

    @staticmethod
    def _is_foreign(variable: str, prefix: str) -> bool:
        return prefix == "DURE_" and variable.startswith(_SECTIONS)


class Settings(SectionSettings):
    """What gateway, worker and command line all need."""

    model_config = SettingsConfigDict(env_prefix="DURE_")

    home: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("dure", appauthor=False)),
        description="State folder: models, the embedded server's append-only file, generated passwords, logs.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="redis://, rediss:// or unix:// address of your own Redis or Valkey. Unset: an embedded Valkey.",
    )
    redis_ca: Path | None = Field(
        default=None,
        description="For rediss://: file with the CA certificate (PEM) that signed the server's. Unset: the system's.",
    )
    # The best Korean of the models that can be had without a model hub.
    model: str = Field(default="qwen2.5-coder-1.5b-korean", description="Name in the model catalogue.")
    model_source: Path | None = Field(
        default=None, description="Folder with model files to copy from, tried before any download."
    )
    hub_url: str = Field(
        default="https://huggingface.co", description="Model hub, tried last. Empty: never ask a model hub."
    )
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$", description="Least level logged.")

    # Redis commands answer in under a millisecond on a LAN; 3 s means that the server is away or frozen.
    redis_timeout_s: ClassVar[float] = 3.0

    @field_validator("redis_url")
    @classmethod
    def _is_redis_address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("wanted redis://host:port/0, rediss://… or unix://…")
        return value

    @field_validator("redis_ca")
    @classmethod
    def _is_certificate(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                ssl.create_default_context(cafile=value)
            except OSError as error:  # also ssl.SSLError
                raise ValueError(f"cannot be used as a CA certificate ({error})") from None
        return value

    def require_redis_url(self) -> str:
        """The server's address, which carries everything that a client must know to connect."""
        if self.redis_url is None:
            raise SettingsError(
                "DURE_REDIS_URL is not set: start everything with `dure up`, or name your server, "
                "for example DURE_REDIS_URL=redis://127.0.0.1:6379/0"
            )
        url = self.redis_url.get_secret_value()
        if not url.startswith("rediss://"):
            if self.redis_ca is not None:
                raise SettingsError(
                    "DURE_REDIS_CA is set, but DURE_REDIS_URL is not a rediss:// address: correct either"
                )
            return url
        # redis-py and kombu both read these from the query; kombu would check no certificate without them.
        tls = {} if "ssl_cert_reqs=" in url else {"ssl_cert_reqs": "required"}
        tls |= {"ssl_ca_certs": str(self.redis_ca)} if self.redis_ca else {}
        return f"{url}{'&' if '?' in url else '?'}{urlencode(tls)}" if tls else url

    @property
    def models_dir(self) -> Path:
        return self.home / "models"


def _unknown(variable: str, known: list[str]) -> str:
    near = difflib.get_close_matches(variable, known, n=1)
    hint = f": did you mean {near[0]}?" if near else f". Known here: {', '.join(sorted(known))}"
    return f"{variable} is not a setting{hint}"


def _explain(error: ValidationError, prefix: str) -> str:
    lines = []
    for problem in error.errors():
        name = prefix + "_".join(str(part) for part in problem["loc"]).upper()
        shown = "(hidden)" if name.endswith("_URL") else repr(problem["input"])
        lines.append(f"{name} = {shown}: {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines)
