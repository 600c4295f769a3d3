"""`dure workers`: the boxes that answer."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from dure.cli_shared import JsonOption, RedisOption, cell, duration, opened, plain_table, print_json, say

if TYPE_CHECKING:
    from dure.worker_registry import WorkerInfo

_NONE = "일하는 작업기가 없습니다. `dure worker`로 켜 주세요. / No worker is alive: run `dure worker`."


def workers(redis: RedisOption = None, as_json: JsonOption = False) -> None:
    """The workers that live: what each serves, how busy, fast and large it is, and when it was last heard of."""
    with opened(redis) as cluster:
        from dure.worker_registry import WorkerRegistry  # noqa: PLC0415 - redis is optional

        registry = WorkerRegistry(cluster.store.redis)
        live, seen_s, now_s = registry.live(), registry.last_seen_s(), cluster.store.now_s()
    # A time is written in whole seconds, so a worker may seem to be of the future.
    silent_s = {name: max(0.0, now_s - at_s) for name, at_s in seen_s.items()}
    if as_json:
        print_json([asdict(worker) | {"last_seen_s": round(silent_s.get(worker.name, 0.0), 3)} for worker in live])
        return
    if live:
        Console().print(_table(live, silent_s))
        _say_load(live)
    else:
        say(_NONE)
    for name in sorted(silent_s.keys() - {worker.name for worker in live}):
        say(f"{name}: {duration(silent_s[name])} 동안 소식이 없습니다. / Silent for {duration(silent_s[name])}.")


def _table(live: "list[WorkerInfo]", silent_s: dict[str, float]) -> Table:
    table = plain_table(
        "작업기\nworker", "모델\nmodel", "엔진\nengine", "자리\nslots", "문맥\ncontext", "속도\ntokens/s",
        "메모리\nRSS MiB", "마지막 신호\nlast seen",
    )  # fmt: skip
    for number in (3, 4, 5, 6, 7):
        table.columns[number].justify = "right"
    for one in sorted(live, key=lambda worker: worker.name):
        table.add_row(
            cell(one.name),
            cell(one.model),
            cell(one.engine),
            f"{one.num_running}/{one.num_slots}",
            str(one.context),
            f"{one.tokens_per_s:.1f}",
            str(one.rss_mib),
            duration(silent_s.get(one.name, 0.0)),
        )
    return table


def _say_load(live: "list[WorkerInfo]") -> None:
    busy, slots = sum(worker.num_running for worker in live), sum(worker.num_slots for worker in live)
    say(f"자리 {slots}개 가운데 {busy}개를 쓰고 있습니다. / {busy} of {slots} slots are busy.")
