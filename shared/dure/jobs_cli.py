"""`dure jobs`: what waits, runs and has ended, and what an operator can do about it."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track

from dure import job_admin, job_views, keys
from dure.cli_shared import JsonOption, RedisOption, opened, print_json, say
from dure.errors import SettingsError
from dure.job_admin import Broom, JobRow, NoSuchJob, NotQuarantined, Selection

if TYPE_CHECKING:
    from dure.cluster import Cluster

# Below the broker's visibility timeout (600 s), as the gateway's own deadline.
_LONGEST_DEADLINE_S = 590
_INTERRUPTED = 130

app = typer.Typer(
    help="작업을 살피고 다룹니다. / Look at jobs and handle them. Prompts and answers stay hidden.",
    no_args_is_help=True,
)
JobIds = Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Ids of jobs, as `dure jobs list` shows.")]

_EMPTY = {
    Selection.OPEN: "기다리거나 실행 중인 작업이 없습니다. / No job waits or runs.",
    Selection.QUARANTINED: "격리된 작업이 없습니다. / No job is in quarantine.",
}
_CANCELLED = {
    "CANCELLED": "취소했습니다. / Cancelled.",
    "REQUESTED": "작업기에 멈추라고 알렸습니다. / Its worker has been told to stop.",
    "FINAL": "이미 끝난 작업입니다. / It had ended before.",
}
_QUESTIONS = {
    Broom.QUEUED: "기다리는 작업 {n}건을 취소합니다. / {n} waiting jobs will be cancelled.",
    Broom.QUARANTINED: "격리된 작업 {n}건을 지웁니다. / {n} quarantined jobs will be deleted.",
    Broom.ENDED: "끝난 작업 {n}건을 답과 함께 지웁니다. / {n} ended jobs will be deleted with their answers.",
}


@app.command("list")
def list_jobs(
    state: Annotated[
        str, typer.Option(help=f"One of: {', '.join(Selection)}. open: queued and running.")
    ] = Selection.OPEN.value,
    limit: Annotated[int, typer.Option(min=1, help="Rows at most; how many there are is said below.")] = 50,
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """Running jobs, then the queue in its order, then ended ones, newest first."""
    selection = job_admin.selection(state)
    with opened(redis) as cluster:
        rows = job_admin.listed(cluster.store, selection)
        now_s = cluster.store.now_s()
    if as_json:
        print_json(job_views.rows_json(rows[:limit], now_s))
    elif not rows:
        say(_EMPTY.get(selection, "해당하는 작업이 없습니다. / There are no such jobs."))
    else:
        _print_rows(rows, limit, now_s)


def _print_rows(rows: list[JobRow], limit: int, now_s: float) -> None:
    Console().print(job_views.rows_table(rows[:limit], now_s))
    models = {row.model for row in rows[:limit]}
    notes = [f"모델 / model: {models.pop()}"] if len(models) == 1 else []
    if len(rows) > limit:
        notes.append(f"{len(rows)}건 가운데 {limit}건입니다. / {limit} of {len(rows)}: more with --limit.")
    for note in notes:
        say(note)


@app.command()
def show(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="Its id.")],
    text: Annotated[
        bool, typer.Option("--text", help="Also what was asked and answered. Without it none of these words is shown.")
    ] = False,
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """One job: its state, its times, the attempts it lost, and what happened when."""
    with opened(redis) as cluster:
        store = cluster.store
        detail = job_views.JobDetail(
            record=job_admin.find(store, job_id),
            is_quarantined=job_id in store.quarantined(),
            events=store.events(job_id),
            now_s=store.now_s(),
            asked=job_admin.messages(store, job_id) if text else None,
        )
    if as_json:
        print_json(job_views.detail_json(detail))
    else:
        job_views.print_detail(detail, Console())


@app.command()
def cancel(job_ids: JobIds = None, redis: RedisOption = None) -> None:
    """Cancel jobs: waiting ones at once; a running one stops within a second."""
    with opened(redis) as cluster:
        replies = {job_id: job_admin.cancel(cluster.store, job_id) for job_id in _given(job_ids)}
    for job_id, reply in replies.items():
        if reply:
            say(f"{job_id}  {_CANCELLED[reply]}")
    if unknown := [job_id for job_id, reply in replies.items() if reply is None]:
        raise NoSuchJob(unknown)


@app.command()
def retry(
    job_ids: JobIds = None,
    every: Annotated[bool, typer.Option("--all", help="All that are in quarantine.")] = False,
    deadline_s: Annotated[
        int, typer.Option(min=1, max=_LONGEST_DEADLINE_S, help="Unanswered for so long, the new job fails (s).")
    ] = 300,
    redis: RedisOption = None,
) -> None:
    """Ask jobs from the quarantine again, each as a new job. They had ended their workers several times."""
    if every and job_ids:
        raise SettingsError("either ids or --all, not both")
    with opened(redis) as cluster:
        wanted = _quarantined(cluster) if every else _given(job_ids)
        asked: list[tuple[str, str]] = []
        refused = []
        for job_id in wanted:
            try:
                asked.append(job_admin.retry(cluster.store, job_id, deadline_s))
            except (NoSuchJob, NotQuarantined) as error:
                refused.append(str(error))
            else:
                say(f"{job_id}  → {asked[-1][0]}")
        if asked:
            _hint(cluster, asked)
    if refused:
        raise NotQuarantined("; ".join(refused))
    if not wanted:
        say(_EMPTY[Selection.QUARANTINED])


@app.command()
def purge(
    state: Annotated[
        str,
        typer.Option(
            help="queued: cancel all that wait. quarantined, ended: delete them with their answers and events; "
            "conversations keep their turns for 7 days.",
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    redis: RedisOption = None,
) -> None:
    """Clear jobs away. Running ones are never touched. Ctrl-C stops between two jobs."""
    broom = job_admin.broom(state)
    with opened(redis) as cluster:
        job_ids, num_fresh = job_admin.purgeable(cluster.store, broom)
        if num_fresh:
            say(
                f"{num_fresh}건은 방금 끝나서 그대로 둡니다. / {num_fresh} ended less than "
                f"{job_admin.SETTLED_S:.0f} s ago and stay: their answers may be being read."
            )
        if not job_ids:
            say("치울 작업이 없습니다. / Nothing to purge.")
        elif _is_sure(_QUESTIONS[broom].format(n=len(job_ids)), yes):
            _purge(cluster, job_ids, broom)
        else:
            say("아무것도 바꾸지 않았습니다. / Nothing was changed.")
            raise typer.Exit(1)


def _purge(cluster: "Cluster", job_ids: list[str], broom: Broom) -> None:
    num_gone, console = 0, Console(stderr=True)
    try:
        is_quiet = not console.is_terminal
        for job_id in track(job_ids, "치우는 중 / Purging", console=console, disable=is_quiet, transient=True):
            num_gone += job_admin.purge(cluster.store, job_id, broom)
    except KeyboardInterrupt:
        say(f"멈췄습니다. {num_gone}건을 치웠습니다. / Stopped: {num_gone} of {len(job_ids)} purged.")
        raise typer.Exit(_INTERRUPTED) from None
    say(f"{num_gone}건을 치웠습니다. / {num_gone} purged.")
    if num_kept := len(job_ids) - num_gone:
        say(f"{num_kept}건은 그사이 상태가 바뀌어 그대로 두었습니다. / {num_kept} had changed meanwhile and stay.")


def _is_sure(question: str, yes: bool) -> bool:
    say(question)
    if yes:
        return True
    if not sys.stdin.isatty():
        raise SettingsError("nobody is there to confirm it: add --yes to purge without a question")
    return typer.confirm("계속할까요? / Go on?")


def _given(job_ids: list[str] | None) -> list[str]:
    """The ids typed, each once. Raises SettingsError where there are none."""
    if not job_ids:
        raise SettingsError("no id was given: `dure jobs list --state all` shows them")
    return list(dict.fromkeys(job_ids))


def _quarantined(cluster: "Cluster") -> list[str]:
    return [row.id for row in job_admin.listed(cluster.store, Selection.QUARANTINED)]


def _hint(cluster: "Cluster", jobs: list[tuple[str, str]]) -> None:
    """Wake workers for (id, model). A hint that is lost is sent again by a gateway within seconds."""
    from kombu.exceptions import OperationalError  # noqa: PLC0415 - celery is optional
    from redis import RedisError  # noqa: PLC0415

    from dure import broker  # noqa: PLC0415

    celery = broker.make_celery(cluster.url)
    try:
        for job_id, model in jobs:
            broker.publish(celery, job_id, keys.model_queue(model))
    except (OperationalError, RedisError, OSError) as error:
        say(f"알림은 게이트웨이가 곧 다시 보냅니다. / A gateway will send the hints soon ({error}).")
    finally:
        celery.close()
