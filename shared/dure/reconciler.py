"""Brings jobs back to life: from workers that died, and from hints that got lost.

Any number of gateways may run it at once; what two of them do to one job is the same as what one does.
"""

import json
import logging
from collections.abc import Callable

from dure import keys
from dure.errors import StoreError, StoreUnavailable
from dure.job_store import JobStore
from dure.worker_registry import WorkerRegistry

log = logging.getLogger(__name__)

# A hint is in its list within milliseconds of SUBMIT, and a taken one is claimed as fast. Older than this and in no
# list means lost. Too short only costs a duplicate hint.
HINT_LOST_AFTER_S = 5.0


class Reconciler:
    """publish(job_id, queue, priority) sends a hint and may raise; the next round tries again."""

    def __init__(self, store: JobStore, publish: Callable[[str, str, int], None]) -> None:
        self._store = store
        self._publish = publish
        self._workers = WorkerRegistry(store.redis)

    def run_once(self) -> int:
        """One round. Returns the number of hints sent again."""
        self._workers.forget_dead()
        for job_id in [*self._store.leases_over(), *self._store.queued_longer_than(HINT_LOST_AFTER_S)]:
            self._expire(job_id)
        waiting = self._store.waiting(HINT_LOST_AFTER_S)
        hinted = self._hinted_ids({keys.model_queue(job.model) for job in waiting}) if waiting else set()
        lost = [job for job in waiting if job.id not in hinted]
        for job in lost:
            priority = keys.PRIORITY_URGENT if job.is_revived else keys.PRIORITY_NORMAL
            self._publish(job.id, keys.model_queue(job.model), priority)
            log.info("hint sent again", extra={"action": "job.republish", "job_id": job.id})
        return len(lost)

    def _expire(self, job_id: str) -> None:
        try:
            self._store.expire(job_id)
        except StoreUnavailable:
            raise
        except StoreError as error:
            # One damaged job must not hold up the others.
            log.error("cannot judge the job: %s", error, extra={"action": "reconcile.damaged", "job_id": job_id})

    def _hinted_ids(self, queues: set[str]) -> set[str]:
        """Ids of all hints that wait in a queue somebody reads. Compared one by one: counts deceive.

        Hints that kombu keeps as taken and unacknowledged do not count: a live worker claims within milliseconds what
        it takes, so a job still queued then has lost its hint to a dead one, which kombu would only notice after the
        visibility timeout. In those milliseconds a hint may go out twice, which is harmless.
        """
        own_queues = {keys.worker_queue(worker.name) for worker in self._workers.live()}
        with self._store.redis.pipeline(transaction=False) as pipe:
            for queue in queues | own_queues:
                for name in keys.queue_keys(queue):
                    pipe.lrange(name, 0, -1)
            queued = pipe.execute()
        return {_hinted_id(raw) for raws in queued for raw in raws}


def _hinted_id(raw: str) -> str:
    """The job's id, or nothing where the entry is not a hint: anybody may write into a list."""
    try:
        return str(json.loads(raw)["headers"]["id"])
    except (ValueError, KeyError, TypeError):
        return ""
