"""Celery over Redis as the carrier of wake-up hints: the same settings in gateway, worker and Flower.

A message carries a job id and nothing else. It may get lost or come twice without harm: the job store is the truth.
"""

import logging
from typing import Any

from celery import Celery
from kombu.transport import redis as kombu_redis

from dure import keys

log = logging.getLogger(__name__)

TASK_NAME = "dure.chat"

# The longest a taken, unacknowledged hint stays invisible. Longer than any job's deadline; the shortest value of all
# processes wins, so it is not a setting.
VISIBILITY_TIMEOUT_S = 600


class Channel(kombu_redis.Channel):
    def _brpop_read(self, **options: Any) -> Any:
        """As kombu's, but what is no message at all ends with a line in the log instead of ending the consumer.

        Dropping it is safe: a job whose hint it may have been gets a new one.
        """
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, KeyError, TypeError) as error:
            # Neither its content nor the error's text, which quotes it.
            log.error(
                "an undecodable message was dropped: %s", type(error).__name__, extra={"action": "hint.undecodable"}
            )
            return True

    def close(self) -> None:
        """As kombu's, but without waiting until the last question for a hint is answered or over.

        A hint that comes at that very moment is lost; its job gets a new one.
        """
        if self._in_poll:
            self.client.connection.disconnect()
            self._in_poll = False
        super().close()  # type: ignore[no-untyped-call]


class Transport(kombu_redis.Transport):
    """For workers. Who only publishes or looks on takes kombu's own; Flower knows that by its name."""

    Channel = Channel
    # Each wait for a hint ends after so long and is asked anew: kombu's 1 s is half of an idle worker's traffic.
    brpop_timeout = 5


def make_celery(redis_url: str, *, is_worker: bool = False) -> Celery:
    """The application; queues are made as they are named, by sender and worker alike."""
    app = Celery("dure", broker=redis_url, set_as_current=False)
    app.conf.update(_SETTINGS)
    if is_worker:
        app.conf.broker_transport = f"{__name__}:{Transport.__name__}"
    return app


def publish(app: Celery, job_id: str, queue: str, priority: int = keys.PRIORITY_NORMAL) -> None:
    """Send one hint, without retry. Raises kombu's OperationalError; the hint may have gone out all the same."""
    # The message's id is the job's id: the reconciler compares these, and Flower lists tasks by job.
    app.send_task(TASK_NAME, (job_id,), task_id=job_id, queue=queue, priority=priority, retry=False)


_SETTINGS: dict[str, Any] = {
    "accept_content": ["json"],
    "task_serializer": "json",
    "task_ignore_result": True,
    # Acknowledge after the work, so that a dying worker leaves the hint behind.
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    # A lost connection must not start a second copy of a running job.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "worker_send_task_events": True,
    "worker_hijack_root_logger": False,
    "task_default_queue": "celery",
    "task_create_missing_queues": True,
    "broker_transport_options": {
        "visibility_timeout": VISIBILITY_TIMEOUT_S,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 30,
        "socket_timeout": 10,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "queue_order_strategy": "priority",
        "priority_steps": list(keys.PRIORITY_STEPS),
    },
}
