"""Soak: jobs over real processes (gateway, three workers, Valkey) while faults are injected by seed.

Ends with a table and one JSON object. Exit status 1 when a job was lost, duplicated, wrong, or has a gap; then seed and
the events of the first such job are printed.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import redis
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dure.errors import StoreError
from dure.job_store import JobStore
from soaking.faults import FAULTS, LEASE_S, Cluster
from soaking.verdict import Asked, Verdict, judge, question
from support import Stack, events

CLIENTS = 6
SHORTEST, LONGEST = 10, 60  # tokens of an answer
CANCEL_SHARE = 0.05
FAULT_EVERY_S = 2.5
SETTLE_WITHIN_S = 90.0


class Soak:
    def __init__(self, cluster: Cluster, num_jobs: int, faults: list[str], seed: int) -> None:
        self.cluster = cluster
        self.asked: list[Asked] = []
        self.injected: Counter[str] = Counter()
        self._faults = faults
        self._seed = seed
        self._num_jobs = num_jobs
        self._numbers = iter(range(num_jobs))
        self._lock = threading.Lock()
        self._is_over = threading.Event()

    def run(self, progress: Progress) -> None:
        """Ask everything, harm everything, and wait until every job has ended."""
        task = progress.add_task("jobs", total=self._num_jobs)
        injector = threading.Thread(target=self._inject)
        clients = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]
        for thread in (injector, *clients):
            thread.start()
        while any(client.is_alive() for client in clients):
            progress.update(task, completed=len(self.asked))
            time.sleep(0.2)
        self._is_over.set()
        injector.join()
        progress.update(task, completed=len(self.asked), description="settling")
        give_up = time.monotonic() + SETTLE_WITHIN_S
        while not self._has_settled() and time.monotonic() < give_up:
            time.sleep(0.2)

    def _ask(self, client: int) -> None:
        dice = random.Random(f"{self._seed}/{client}")
        with httpx.Client(base_url=self.cluster.stack.url, timeout=30) as http:
            while (number := self._next()) is not None:
                payload = question(number, dice.randint(SHORTEST, LONGEST))
                body = {"message": payload.messages[0].content, "max_tokens": payload.max_tokens}
                answer = self._insist(http, "POST", "/v1/jobs", f"{self._seed}-{number}", body)
                job_id = answer["job_id"]
                may_cancel = dice.random() < CANCEL_SHARE
                self.asked.append(Asked(job_id, payload, may_cancel))
                self.cluster.job_ids.append(job_id)
                if may_cancel:
                    self._insist(http, "DELETE", f"/v1/jobs/{job_id}", "", None)
                time.sleep(dice.uniform(0, 0.3))

    def _insist(self, http: httpx.Client, method: str, path: str, key: str, body: object) -> dict[str, str]:
        """As a careful client does it: the same request with the same key, until it is answered."""
        while True:
            try:
                answer = http.request(method, path, json=body, headers={"Idempotency-Key": key} if key else {})
            except httpx.TransportError:
                time.sleep(0.2)
                continue
            if answer.status_code not in {429, 503}:
                found: dict[str, str] = answer.raise_for_status().json()
                return found
            time.sleep(0.2)

    def _inject(self) -> None:
        dice = random.Random(self._seed)
        bag: list[str] = []
        while self._faults and not self._is_over.wait(FAULT_EVERY_S):
            bag = bag or dice.sample(self._faults, len(self._faults))  # each once before any comes again
            name = bag.pop()
            FAULTS[name](self.cluster, dice)
            self.injected[name] += 1

    def _next(self) -> int | None:
        with self._lock:
            return next(self._numbers, None)

    def _has_settled(self) -> bool:
        try:
            return (
                self.cluster.stack.store.redis.zcard("jobs:queued")
                + self.cluster.stack.store.redis.zcard("jobs:running")
                == 0
            )
        except (redis.RedisError, StoreError):
            return False


def show(console: Console, soak: Soak, verdict: Verdict, seconds: float) -> None:
    table = Table("", "", title=f"soak, {seconds:.0f} s", show_header=False)
    table.add_row("jobs", str(len(soak.asked)))
    for name, count in sorted(soak.injected.items()):
        table.add_row(f"fault: {name}", str(count))
    for name in ("lost", "duplicated", "wrong", "gaps"):
        table.add_row(name, str(len(getattr(verdict, name))))
    table.add_row("recoveries from a dead worker", str(len(verdict.recoveries)))
    table.add_row(
        f"recovery p50 / p99 (lease {LEASE_S:g} s)", f"{verdict.recovery_s(50):.1f} / {verdict.recovery_s(99):.1f} s"
    )
    console.print(table)


def show_timeline(console: Console, store: JobStore, job_id: str, seed: int) -> None:
    console.print(f"seed {seed}; job {job_id}: {store.redis.hgetall(f'job:{job_id}')}", highlight=False, soft_wrap=True)
    for event in events(store, job_id):
        console.print(f"  {event}", highlight=False, soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=3000)
    parser.add_argument("--faults", default="all", help=f"all, none, or some of: {', '.join(FAULTS)}")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    chosen = {"all": list(FAULTS), "none": []}.get(options.faults) or [
        name for name in options.faults.split(",") if name != "none"
    ]
    if unknown := set(chosen) - set(FAULTS):
        parser.error(f"no fault is called {', '.join(sorted(unknown))}: choose from {', '.join(FAULTS)}")
    console = Console(stderr=True)
    console.print(f"seed {options.seed}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dure-soak-") as folder, Stack(Path(folder)) as stack:
        cluster = Cluster(stack)
        soak = Soak(cluster, options.jobs, chosen, options.seed)
        with Progress(console=console) as progress:
            soak.run(progress)
        verdict = judge(stack.store, soak.asked, cluster.deaths)
        seconds = time.monotonic() - began
        show(Console(), soak, verdict, seconds)
        if verdict.bad:
            show_timeline(Console(), stack.store, verdict.bad[0], options.seed)
    counts = {name: len(getattr(verdict, name)) for name in ("lost", "duplicated", "wrong", "gaps")}
    print(
        json.dumps(
            {
                "jobs": len(soak.asked),
                "faults": sum(soak.injected.values()),
                **counts,
                "recovery_p50_s": round(verdict.recovery_s(50), 2),
                "recovery_p99_s": round(verdict.recovery_s(99), 2),
                "lease_s": LEASE_S,
                "seconds": round(seconds, 1),
                "seed": options.seed,
            }
        )
    )
    sys.exit(bool(verdict.bad))


if __name__ == "__main__":
    main()
