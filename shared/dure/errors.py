"""Every error that a caller can meet.

DureError
├── SettingsError          a setting is unknown, malformed or impossible
│   └── EngineMissing      the packages of the named engine are not installed
├── PersonaError           a file of a style or personality cannot be used
├── PersonaUnknown         no such style or personality
├── ModelError             the model cannot be had or is not what it should be
│   ├── ModelUnknown       no such name in the catalogue
│   ├── ModelMissing       known, but not on this machine
│   ├── ModelCorrupt       bytes differ from the catalogue's sha256
│   ├── ModelUnavailable   no source could deliver it
│   ├── ModelUnsupported   no engine of this release runs it
│   └── PlanTooLarge       it does not fit into this machine's memory
├── EngineError            the engine refuses or fails one request
│   ├── ContextOverflow    the prompt cannot be made to fit
│   └── BadRequest         a sampling value or message the engine cannot take
├── StoreError             Redis did not do what was asked
│   ├── StoreUnavailable   not reachable, loading, or timed out
│   ├── QueueFull          admission limit reached
│   └── IdempotencyConflict  the key was used before with another request
└── ClientError            the gateway answered a client's call with an error

The message says the remedy as a user would type it.
"""


class DureError(Exception):
    """Root of all errors of this project."""


class SettingsError(DureError):
    pass


class EngineMissing(SettingsError):
    pass


class PersonaError(DureError):
    pass


class PersonaUnknown(DureError):
    """field: style or personality. near: the one of the known names that was perhaps meant."""

    def __init__(self, field: str, known: list[str], near: str | None) -> None:
        super().__init__(f"there is no such {field}: name one of {', '.join(known)}")
        self.field = field
        self.known = known
        self.near = near


class ModelError(DureError):
    pass


class ModelUnknown(ModelError):
    pass


class ModelMissing(ModelError):
    pass


class ModelCorrupt(ModelError):
    pass


class ModelUnavailable(ModelError):
    pass


class ModelUnsupported(ModelError):
    pass


class PlanTooLarge(ModelError):
    pass


class EngineError(DureError):
    code = "engine_failed"


class ContextOverflow(EngineError):
    """The prompt has `num_tokens` tokens where `limit` are possible."""

    code = "context_overflow"

    def __init__(self, num_tokens: int, limit: int) -> None:
        super().__init__(
            f"the prompt needs {num_tokens} tokens, but this worker's context leaves room for {limit}: "
            "shorten the message, or serve with a larger DURE_WORKER_CONTEXT"
        )
        self.num_tokens = num_tokens
        self.limit = limit


class BadRequest(EngineError):
    code = "bad_request"


class StoreError(DureError):
    pass


class StoreUnavailable(StoreError):
    pass


class QueueFull(StoreError):
    def __init__(self, num_queued: int) -> None:
        super().__init__(f"{num_queued} jobs are waiting already: try again later, or add a worker")
        self.num_queued = num_queued


class IdempotencyConflict(StoreError):
    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was used with a different request: send a new key")


class ClientError(DureError):
    """An HTTP error answer. `status` is the HTTP status, `code` the gateway's stable error code."""

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
