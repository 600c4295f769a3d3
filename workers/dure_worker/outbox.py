"""Carries the text of all running jobs to Redis, off the engine's threads."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dure.errors import StoreError
from dure.events import Draft, EventType
from dure.job_store import Claim, EmitReply, JobStore

log = logging.getLogger(__name__)

# Readers see text at most so late; each round costs one short script per running job.
_ROUND_S = 0.1


@dataclass
class Delivery:
    """One running attempt's text on its way."""

    claim: Claim
    on_stop: Callable[[EmitReply], None]  # called from the outbox's thread, with CANCEL or LOST
    deadline: float  # by time.monotonic()
    pending: list[Draft] = field(default_factory=list)
    num_tried: int = 0  # of pending, those that may be written already: their reply was lost
    next_seq: int = 1
    is_first: bool = True
    num_seen: int = -1  # the outbox's count of advances at the last renewal of the lease
    stop_reply: EmitReply = EmitReply.OK

    def append(self, draft: Draft) -> None:
        """Tokens that leave together are one event, unless a written one would grow behind its reader's back."""
        if len(self.pending) > self.num_tried and self.pending[-1].type is draft.type is EventType.TOKEN:
            self.pending[-1] = Draft(EventType.TOKEN, self.pending[-1].text + draft.text)
        else:
            self.pending.append(draft)


class Outbox:
    """One thread for all slots. A failing Redis keeps the text here; it goes out when Redis is back, in order, once."""

    def __init__(self, store: JobStore, lease_s: float) -> None:
        self._store = store
        self._lease_s = lease_s
        self._deliveries: dict[str, Delivery] = {}
        # Over all slots: while one prompt is read, the others stand still, and that is no reason to lose them.
        self._num_advances = 0
        self._advanced_at = 0.0  # by time.monotonic()
        self._lock = threading.Lock()  # over the deliveries and their fields
        self._sending = threading.Lock()  # held during a round, so that `close` waits for what is under way
        self._wake = threading.Event()
        self._is_closed = False
        self._is_waiting = False
        self._thread = threading.Thread(target=self._loop, name="outbox", daemon=True)
        self._thread.start()

    def open(self, claim: Claim, on_stop: Callable[[EmitReply], None]) -> Delivery:
        delivery = Delivery(claim, on_stop, time.monotonic() + claim.deadline_s)
        with self._lock:
            self._deliveries[claim.job_id] = delivery
            self._advanced_at = time.monotonic()
        return delivery

    def stalled_s(self) -> float:
        """Seconds since any running answer advanced; 0 when none runs."""
        with self._lock:
            return time.monotonic() - self._advanced_at if self._deliveries else 0.0

    def add(self, delivery: Delivery, drafts: list[Draft]) -> None:
        """Note that the engine advanced, with or without text. The first text leaves at once."""
        with self._lock:
            self._num_advances += 1
            self._advanced_at = time.monotonic()
            for draft in drafts:
                delivery.append(draft)
            if not (drafts and delivery.is_first):
                return
            delivery.is_first = False
        self._wake.set()

    def close(self, delivery: Delivery) -> tuple[int, list[Draft]]:
        """Stop carrying; return the sequence number and the text that FINISH must still write."""
        with self._sending, self._lock:
            self._deliveries.pop(delivery.claim.job_id, None)
            return delivery.next_seq, delivery.pending

    def stop(self) -> None:
        self._is_closed = True
        self._wake.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._is_closed:
            self._wake.wait(_ROUND_S)
            self._wake.clear()
            with self._sending:
                with self._lock:
                    deliveries = list(self._deliveries.values())
                for delivery in deliveries:
                    self._send(delivery)

    def _send(self, delivery: Delivery) -> None:
        if delivery.stop_reply is EmitReply.LOST:
            return
        with self._lock:
            drafts, num_advances = list(delivery.pending), self._num_advances
            delivery.num_tried = len(drafts)
        claim = delivery.claim
        # Without progress, or past its deadline, the lease is left to run out: a hung engine must lose its jobs.
        may_renew = num_advances != delivery.num_seen and time.monotonic() < delivery.deadline
        lease_s = self._lease_s if may_renew else 0
        try:
            reply = self._store.emit(claim.job_id, claim.attempt, delivery.next_seq, drafts, lease_s)
        except StoreError as error:
            if not self._is_waiting:  # once an outage, not ten times a second
                log.warning("text waits for Redis: %s", error, extra={"action": "outbox.wait", "job_id": claim.job_id})
            self._is_waiting = True
            return
        self._is_waiting = False
        with self._lock:
            del delivery.pending[: len(drafts)]
            delivery.num_tried = 0
            delivery.next_seq += len(drafts)
            delivery.num_seen = num_advances
        if reply is not EmitReply.OK and reply is not delivery.stop_reply:
            delivery.stop_reply = reply
            delivery.on_stop(reply)
