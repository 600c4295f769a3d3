"""Which queue a job's hint goes to, and which models the cluster serves."""

import redis

from dure import keys
from dure.errors import StoreUnavailable
from dure.worker_registry import WorkerInfo, WorkerRegistry
from dure_gateway.problems import Problem
from dure_gateway.texts import Text

# What OpenAI clients may send instead of a model's name.
DEFAULT_ALIAS = "dure"


class Router:
    """default_model answers requests that name none; it may be asked for even while no worker is there."""

    def __init__(self, registry: WorkerRegistry, default_model: str) -> None:
        self._registry = registry
        self._default = default_model

    def workers(self) -> list[WorkerInfo]:
        try:
            return self._registry.live()
        except redis.RedisError as error:
            raise StoreUnavailable(f"Redis does not answer: {error}") from error

    def models(self) -> list[str]:
        return sorted({self._default, *(worker.model for worker in self.workers())})

    def choose_model(self, asked: str | None) -> str:
        """Raises Problem (404) with the names that can be had."""
        if asked in {None, DEFAULT_ALIAS, self._default}:
            return self._default
        models = self.models()
        if asked not in models:
            values = {"model": asked, "expected": ", ".join([DEFAULT_ALIAS, *models])}
            raise Problem(404, Text.NO_SUCH_MODEL, "model", values)
        return str(asked)

    def choose(self, model: str) -> str:
        """The queue that all workers of this model read."""
        return keys.model_queue(model)
