"""Takes a job in: recorded first, hinted at second."""

import logging
from dataclasses import dataclass

from celery import Celery
from kombu.exceptions import OperationalError

from dure import broker, keys
from dure.errors import StoreError
from dure.job_store import JobStore, NewJob
from dure_gateway.routing import Router

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ticket:
    """An accepted job. is_new is False when the same request with the same Idempotency-Key came before."""

    job_id: str
    is_new: bool


class Admission:
    """Blocking; the routes call it in a thread."""

    def __init__(self, store: JobStore, celery: Celery, router: Router, max_queued: int) -> None:
        self._store = store
        self._celery = celery
        self._router = router
        self._max_queued = max_queued

    def admit(self, job: NewJob) -> Ticket:
        """Raises QueueFull, IdempotencyConflict, StoreUnavailable; then nothing was promised."""
        job_id, is_new = self._store.submit(job, max_queued=self._max_queued)
        if is_new:
            self.publish(job_id, self._router.choose(job.model))
        return Ticket(job_id, is_new)

    def publish(self, job_id: str, queue: str, priority: int = keys.PRIORITY_NORMAL) -> None:
        """Send a hint. A failure is not the client's: the job is recorded, and the reconciler hints at it again."""
        try:
            broker.publish(self._celery, job_id, queue, priority)
        except (OperationalError, OSError) as error:
            log.warning("hint not sent: %s", error, extra={"action": "job.publish_failed", "job_id": job_id})

    def cancel(self, job_id: str) -> None:
        """Cancel for a client that has left; an unreachable Redis is not its concern any more."""
        try:
            self._store.cancel(job_id)
        except StoreError as error:
            log.warning("not cancelled: %s", error, extra={"action": "job.cancel_failed", "job_id": job_id})
