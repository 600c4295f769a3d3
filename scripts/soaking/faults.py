"""What can happen to a cluster. Each fault is a function of the cluster and of dice; its name is its function's."""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import httpx
import redis

from dure import broker, catalog, keys
from support import Stack, wait_for

LEASE_S = 5.0
WORKERS = ("red", "green", "blue")
# Slow enough that a fault finds answers half said.
_PACE = {"DURE_WORKER_SCRIPTED_TOKEN_S": "0.01", "DURE_WORKER_LEASE_S": str(LEASE_S)}


class Cluster:
    """A gateway, three workers and a Valkey, of which each can be harmed and is put up again.

    deaths: (worker, server time in seconds) of every worker that was killed or frozen.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.job_ids: list[str] = []
        self.deaths: list[tuple[str, float]] = []
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        for name in WORKERS:
            self.start_worker(name)

    def start_worker(self, name: str) -> None:
        self._workers[name] = self.stack.start("dure_worker", name, DURE_WORKER_NAME=name, **_PACE)

    def worker(self, name: str) -> "subprocess.Popen[bytes]":
        return self._workers[name]

    def start_gateway(self) -> None:
        self.stack.gateway = self.stack.start("dure_gateway", "gateway")
        wait_for(self.is_up, "the gateway")

    def is_up(self) -> bool:
        try:
            return httpx.get(f"{self.stack.url}/healthz", timeout=5).is_success
        except httpx.TransportError:
            return False

    def stop_workers(self) -> None:
        for worker in self._workers.values():
            worker.terminate()


def worker_killed(cluster: Cluster, dice: random.Random) -> None:
    name = dice.choice(WORKERS)
    cluster.deaths.append((name, time.time()))
    cluster.worker(name).kill()
    cluster.worker(name).wait()
    cluster.start_worker(name)


def worker_frozen(cluster: Cluster, dice: random.Random) -> None:
    """Longer than its lease: it wakes up and believes that its jobs are still its own."""
    name = dice.choice(WORKERS)
    cluster.deaths.append((name, time.time()))
    cluster.worker(name).send_signal(signal.SIGSTOP)
    time.sleep(LEASE_S + dice.uniform(1, 3))
    cluster.worker(name).send_signal(signal.SIGCONT)


def worker_stopped(cluster: Cluster, dice: random.Random) -> None:
    """SIGTERM, as an update does it."""
    name = dice.choice(WORKERS)
    cluster.worker(name).terminate()
    cluster.worker(name).wait()
    cluster.start_worker(name)


def redis_restarted(cluster: Cluster, dice: random.Random) -> None:
    cluster.stack.valkey.stop()
    time.sleep(dice.uniform(0, 2))
    cluster.stack.valkey.start()


def redis_killed(cluster: Cluster, dice: random.Random) -> None:
    process = cluster.stack.valkey.process
    assert process is not None
    process.kill()
    process.wait()
    time.sleep(dice.uniform(0, 2))
    cluster.stack.valkey.start()


def redis_frozen(cluster: Cluster, dice: random.Random) -> None:
    process = cluster.stack.valkey.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    time.sleep(dice.uniform(1, 4))
    process.send_signal(signal.SIGCONT)


def gateway_killed(cluster: Cluster, _: random.Random) -> None:
    cluster.stack.gateway.kill()
    cluster.stack.gateway.wait()
    cluster.start_gateway()


def connections_cut(cluster: Cluster, _: random.Random) -> None:
    _unless_away(lambda client: client.client_kill_filter(_type="normal", skipme=True), cluster)


def hints_repeated(cluster: Cluster, dice: random.Random) -> None:
    """Also of jobs that ended long ago."""
    chosen = dice.sample(cluster.job_ids, min(20, len(cluster.job_ids)))
    with broker.make_celery(cluster.stack.valkey.url) as app:
        for job_id in chosen:
            broker.publish(app, job_id, keys.model_queue(catalog.SCRIPTED))


def hints_lost(cluster: Cluster, _: random.Random) -> None:
    """All that wait: the worst that a broker can do."""
    _unless_away(lambda client: client.delete(*keys.queue_keys(keys.model_queue(catalog.SCRIPTED))), cluster)


def _unless_away(command: Callable[["redis.Redis"], Any], cluster: Cluster) -> None:
    client = cluster.stack.valkey.client()
    command(client)
    client.close()


FAULTS: dict[str, Callable[[Cluster, random.Random], None]] = {
    fault.__name__.replace("_", "-"): fault
    for fault in (
        worker_killed, worker_frozen, worker_stopped, redis_restarted, redis_killed, redis_frozen,
        gateway_killed, connections_cut, hints_repeated, hints_lost,
    )
}  # fmt: skip
