"""`dure jobs`, `dure workers` and `dure doctor` as an operator types them: the real command over a real server."""

import json
import os
import pty
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from dure import catalog, keys, run_file
from dure.events import Draft, EventType
from dure.job import JobError, JobPayload, JobState, LossCause, Message, Usage
from dure.job_store import Claim, JobStore, Outcome
from dure.worker_registry import WorkerInfo, WorkerRegistry
from model_desk import own_model
from support import DEADLINE_S, DURE, Stack, Valkey, free_port, new_job, stop, wait_for

QUESTION, ANSWER = "비밀스러운 질문입니다", "비밀스러운 대답입니다"
LONG_AGO = 1
BOX = WorkerInfo("box-1", catalog.SCRIPTED, "scripted", 4, 2048, 77, num_running=3, tokens_per_s=26.5, rss_mib=1509)


class Desk:
    """An operator's terminal on a cluster, and the means to bring jobs into every state."""

    def __init__(self, folder: Path, server: Valkey) -> None:
        self.url = server.url
        self.redis = server.client()
        self.store = JobStore(self.redis)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DURE_")}
        self.environ = clean | {
            "DURE_HOME": str(folder / "home"),
            "DURE_REDIS_URL": self.url,
            "COLUMNS": "100",
            "PYTHONUTF8": "1",
        }

    def run(self, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [DURE, *arguments], env=self.environ | environ, stdin=subprocess.DEVNULL, capture_output=True,
            encoding="utf-8", timeout=DEADLINE_S, check=False,
        )  # fmt: skip

    def said(self, *arguments: str) -> str:
        """What it prints when all goes well."""
        done = self.run(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.said(*arguments, "--json"))

    def refused(self, *arguments: str, **environ: str) -> str:
        """What it says on one line when it cannot."""
        done = self.run(*arguments, **environ)
        assert done.returncode == 1, done
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("dure: ")
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    def queue(self, job_id: str) -> str:
        payload = JobPayload([Message("user", QUESTION)])
        self.store.submit(new_job(job_id, payload=payload), max_queued=1000)
        return job_id

    def start(self, job_id: str, owner: str = "box-1:1:1") -> Claim:
        claim = self.store.claim(self.queue(job_id), owner, owner.split(":", maxsplit=1)[0], is_alone=True)
        assert isinstance(claim, Claim)
        self.store.emit(job_id, claim.attempt, 1, [Draft(EventType.TOKEN, ANSWER[:3]), Draft(EventType.TOKEN, "…")])
        return claim

    def end(self, job_id: str, state: JobState = JobState.DONE) -> str:
        outcome = {
            JobState.DONE: Outcome(JobState.DONE, ANSWER, "stop", Usage(31, 9), question=QUESTION),
            JobState.FAILED: Outcome(JobState.FAILED, error=JobError("context_overflow", "too long")),
            JobState.CANCELLED: Outcome(JobState.CANCELLED, ANSWER[:3]),
        }[state]
        assert self.store.finish(self.start(job_id), outcome, 3, [Draft(EventType.SENTENCE, ANSWER)])
        return self.settle(job_id)

    def quarantine(self, job_id: str) -> str:
        for number, (cause, rss_mib) in enumerate(
            [(LossCause.MEMORY, 2410), (LossCause.HUNG, 0), (LossCause.KILLED, 7)]
        ):
            self.start(job_id, f"box-{number}:{number}:1")
            self.store.lose(job_id, f"box-{number}:{number}:", cause, rss_mib)
        assert job_id in self.store.quarantined()
        return self.settle(job_id)

    def settle(self, job_id: str) -> str:
        """As if it had ended long ago, so that nobody can be reading its answer."""
        self.redis.hset(keys.job(job_id), "finished", LONG_AGO)
        return job_id

    def one_of_each(self) -> None:
        self.start("running-1")
        self.queue("queued-1")
        self.queue("queued-2")
        for state in (JobState.DONE, JobState.FAILED, JobState.CANCELLED):
            self.end(f"{state.value}-1", state)
        self.quarantine("poison-1")

    def state_of(self, job_id: str) -> str | None:
        job = self.store.get(job_id)
        return job.state.value if job else None

    def states(self) -> dict[str, str]:
        found = (key.split(":")[1] for key in self.redis.keys("job:*") if not key.endswith(":ev"))
        return {job_id: str(self.state_of(job_id)) for job_id in found}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One server is enough here: integration/test_operator.py asks both kinds."""
    server = Valkey(tmp_path_factory.mktemp("operator"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def desk(server: Valkey, tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path, server)
    desk.redis.flushall()
    yield desk
    desk.redis.close()


def test_the_list_shows_the_running_job_then_the_queue_in_its_order(desk: Desk) -> None:
    desk.one_of_each()
    rows = desk.json("jobs", "list")
    assert [(row["id"], row["state"], row["worker"]) for row in rows] == [
        ("running-1", "running", "box-1"), ("queued-1", "queued", None), ("queued-2", "queued", None),
    ]  # fmt: skip
    lines = desk.said("jobs", "list").splitlines()
    assert [line.split()[0] for line in lines if re.search(r"-\d ", line)] == ["running-1", "queued-1", "queued-2"]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("queued", {"queued-1", "queued-2"}),
        ("running", {"running-1"}),
        ("quarantined", {"poison-1"}),
        ("done", {"done-1"}),
        ("failed", {"failed-1", "poison-1"}),
        ("cancelled", {"cancelled-1"}),
        ("all", {"queued-1", "queued-2", "running-1", "poison-1", "done-1", "failed-1", "cancelled-1"}),
    ],
)
def test_a_state_selects_its_jobs(desk: Desk, state: str, expected: set[str]) -> None:
    desk.one_of_each()
    assert {row["id"] for row in desk.json("jobs", "list", "--state", state)} == expected


def test_ended_jobs_show_why_they_ended_and_quarantined_ones_say_so(desk: Desk) -> None:
    desk.one_of_each()
    rows = {row["id"]: row for row in desk.json("jobs", "list", "--state", "failed")}
    assert rows["failed-1"]["error_code"] == "context_overflow"
    assert (rows["poison-1"]["error_code"], rows["poison-1"]["is_quarantined"]) == ("max_attempts", True)
    assert re.search(r"poison-1 +quarantined +3 .*box-2 +max_attempts", desk.said("jobs", "list", "--state", "failed"))


def test_a_longer_list_is_cut_and_says_of_how_many(desk: Desk) -> None:
    for number in range(5):
        desk.queue(f"job-{number}")
    assert "2 of 5" in desk.said("jobs", "list", "--limit", "2")
    assert [row["id"] for row in desk.json("jobs", "list", "--limit", "2")] == ["job-0", "job-1"]


def test_ids_are_never_cut_however_narrow_the_terminal(desk: Desk) -> None:
    job_ids = [desk.queue(letter * 32) for letter in "abc"]
    desk.redis.hset(keys.job(job_ids[0]), "model", "another-model-with-a-long-name-of-its-own")
    for columns in ("60", "100"):
        said = desk.run("jobs", "list", COLUMNS=columns).stdout
        assert all(job_id in said for job_id in job_ids)


def test_an_empty_list_is_a_sentence_and_in_json_an_empty_list(desk: Desk) -> None:
    assert "No job waits or runs" in desk.said("jobs", "list")
    assert "No job is in quarantine" in desk.said("jobs", "list", "--state", "quarantined")
    assert "There are no such jobs" in desk.said("jobs", "list", "--state", "done")
    assert desk.json("jobs", "list", "--state", "all") == []


@pytest.mark.parametrize("state", ["", "RUNNING", "[/]", "ended", "running queued"])
def test_an_unknown_state_is_refused_with_the_known_ones(desk: Desk, state: str) -> None:
    assert "wanted one of open, queued, running" in desk.refused("jobs", "list", "--state", state)


@pytest.mark.parametrize("limit", ["0", "-1", "many"])
def test_a_limit_below_one_is_refused(desk: Desk, limit: str) -> None:
    done = desk.run("jobs", "list", "--limit", limit)
    assert done.returncode == 2
    assert "--limit" in done.stderr


def test_a_quarantined_job_shows_each_lost_attempt_with_its_cause_and_memory(desk: Desk) -> None:
    desk.quarantine("poison")
    shown = desk.json("jobs", "show", "poison")
    assert (shown["state"], shown["is_quarantined"], shown["attempt"]) == ("failed", True, 3)
    assert [(lost["attempt"], lost["cause"], lost["rss_mib"], lost["worker"]) for lost in shown["lost"]] == [
        (1, "memory", 2410, "box-0"), (2, "hung", 0, "box-1"), (3, "killed", 7, "box-2"),
    ]  # fmt: skip
    assert shown["error"]["code"] == "max_attempts"
    said = desk.said("jobs", "show", "poison")
    assert re.search(r"1 +memory +2410 +box-0", said)
    assert re.search(r"2 +hung +\? +box-1", said)


def test_the_timeline_counts_letters_and_joins_drafts_that_follow_one_another(desk: Desk) -> None:
    desk.end("a")
    events = desk.json("jobs", "show", "a")["events"]
    assert [(one["type"], one["seq"], one["num_chars"]) for one in events] == [
        ("start", 0, 0), ("token", 1, 3), ("token", 2, 1), ("sentence", 3, len(ANSWER)), ("final", 0, 0),
    ]  # fmt: skip
    assert all(0 <= one["offset_s"] < DEADLINE_S for one in events)
    said = desk.said("jobs", "show", "a")
    assert re.search(r"token +1 +1-2 +4\n", said)
    assert "final: done" in said


def test_a_job_whose_events_have_expired_says_so(desk: Desk) -> None:
    desk.redis.delete(keys.events(desk.end("a")))
    assert "events are kept for an hour" in desk.said("jobs", "show", "a")
    assert "Nothing has happened yet" in desk.said("jobs", "show", desk.queue("b"))


def test_no_word_of_question_or_answer_is_printed_without_text(desk: Desk) -> None:
    desk.one_of_each()
    WorkerRegistry(desk.redis).announce(BOX)
    said = [
        desk.run("jobs", "list", "--state", "all"),
        desk.run("jobs", "list", "--state", "all", "--json"),
        *(desk.run("jobs", "show", job_id, *more) for job_id in desk.states() for more in ([], ["--json"])),
        desk.run("jobs", "cancel", "queued-1", "running-1", "unknown"),
        desk.run("jobs", "retry", "--all"),
        desk.run("jobs", "purge", "--state", "ended", "--yes"),
        desk.run("workers", "--json"),
        desk.run("doctor", "--quick"),
    ]  # fmt: skip
    for done in said:
        assert done.stdout
        for word in (QUESTION, ANSWER, ANSWER[:3]):
            assert word not in done.stdout + done.stderr, done.args
            assert json.dumps(word)[1:-1] not in done.stdout + done.stderr, done.args


def test_with_text_the_words_are_shown(desk: Desk) -> None:
    desk.end("a")
    said = desk.said("jobs", "show", "a", "--text")
    assert QUESTION in said
    assert said.count(ANSWER) == 2  # as an event and as the reply
    shown = desk.json("jobs", "show", "a", "--text")
    assert shown["messages"] == [{"role": "user", "content": QUESTION}]
    assert shown["reply"] == ANSWER
    assert shown["events"][3]["text"] == ANSWER


def test_words_cannot_steer_the_operators_terminal(desk: Desk) -> None:
    evil = "\x1b]0;own\x07\x1b[2J\x9b31m[red]빨강[/red] 가\n나"
    payload = JobPayload([Message("user", evil)])
    desk.store.submit(new_job("evil", payload=payload), max_queued=10)
    said = desk.said("jobs", "show", "evil", "--text")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", said)
    assert "[red]빨강[/red] 가\n나" in said
    assert desk.json("jobs", "show", "evil", "--text")["messages"][0]["content"] == evil


def test_a_payload_of_a_newer_release_is_named_and_hides_nothing_else(desk: Desk) -> None:
    desk.redis.hset(keys.job(desk.queue("a")), "payload", '{"schema": 99, "messages": []}')
    assert "schema 99" in desk.refused("jobs", "show", "a", "--text")
    assert desk.json("jobs", "show", "a")["state"] == "queued"


BAD_IDS = ["unknown", "a:ev", "", "[/]", "작업", "-1 -2", "../a", "\x1b[2J", "\udcff"]


@pytest.mark.parametrize("job_id", BAD_IDS)
def test_an_unknown_id_is_one_line_with_a_remedy(desk: Desk, job_id: str) -> None:
    desk.end("a")
    said = desk.refused("jobs", "show", "--", job_id)
    assert "no job is called" in said
    assert "dure jobs list --state all" in said
    assert "\x1b" not in said


def test_unknown_ids_are_each_named_by_cancel_and_retry(desk: Desk) -> None:
    desk.end("a")
    for command in ("cancel", "retry"):
        said = desk.refused("jobs", command, "--", *BAD_IDS)
        assert all(repr(job_id) in said for job_id in BAD_IDS)
    assert desk.states() == {"a": "done"}


@pytest.mark.parametrize("command", ["cancel", "retry"])
def test_a_command_without_ids_says_where_they_are_seen(desk: Desk, command: str) -> None:
    assert "no id was given: `dure jobs list" in desk.refused("jobs", command)


def test_cancel_says_what_happened_to_each_and_goes_on_behind_an_unknown_one(desk: Desk) -> None:
    desk.one_of_each()
    done = desk.run("jobs", "cancel", "queued-1", "unknown", "running-1", "done-1", "queued-1")
    assert done.returncode == 1
    assert "'unknown'" in done.stderr
    assert "queued-1" not in done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line, words in zip(lines, ["Cancelled", "told to stop", "ended before"], strict=True):
        assert words in line
    assert desk.state_of("queued-1") == "cancelled"
    assert desk.redis.hget(keys.job("running-1"), "cancel") == "1"
    assert desk.state_of("queued-2") == "queued"


def test_retry_asks_a_quarantined_job_anew_and_wakes_a_worker(desk: Desk) -> None:
    desk.quarantine("poison")
    new_id = desk.said("jobs", "retry", "poison", "--deadline-s", "100").split()[-1]
    record = desk.json("jobs", "show", new_id)
    assert record["state"] == "queued"
    deadline_ms = int(desk.redis.hget(keys.job(new_id), "deadline") or 0)
    assert deadline_ms - record["created_s"] * 1000 == pytest.approx(100_000, abs=1)
    hints = [raw for name in keys.queue_keys("celery.scripted") for raw in desk.redis.lrange(name, 0, -1)]
    assert [json.loads(raw)["headers"]["id"] for raw in hints] == [new_id]
    assert desk.json("jobs", "show", "poison")["retried_as"] == new_id
    assert new_id in desk.said("jobs", "show", "poison")


def test_a_job_that_is_not_in_quarantine_is_not_retried_and_says_where_it_is(desk: Desk) -> None:
    desk.quarantine("poison")
    desk.end("fine")
    done = desk.run("jobs", "retry", "fine", "poison")
    assert done.returncode == 1
    assert "fine is done and not in quarantine" in done.stderr
    new_id = done.stdout.split()[-1]
    assert desk.state_of(new_id) == "queued"
    assert f"was asked again as {new_id}" in desk.refused("jobs", "retry", "poison")
    assert len(desk.states()) == 3


def test_retry_all_asks_every_quarantined_job_and_is_content_with_none(desk: Desk) -> None:
    for number in range(3):
        desk.quarantine(f"poison-{number}")
    said = desk.said("jobs", "retry", "--all").splitlines()
    assert {line.split()[0] for line in said} == {f"poison-{number}" for number in range(3)}
    assert len(desk.json("jobs", "list")) == 3
    assert "No job is in quarantine" in desk.said("jobs", "retry", "--all")


def test_retry_takes_ids_or_all_but_not_both(desk: Desk) -> None:
    desk.quarantine("poison")
    assert "not both" in desk.refused("jobs", "retry", "poison", "--all")
    assert desk.store.quarantined() == ["poison"]


@pytest.mark.parametrize("deadline", ["0", "591", "-5", "nan", "soon"])
def test_a_deadline_that_no_job_may_have_is_refused(desk: Desk, deadline: str) -> None:
    desk.quarantine("poison")
    done = desk.run("jobs", "retry", "poison", "--deadline-s", deadline)
    assert done.returncode == 2
    assert "--deadline-s" in done.stderr
    assert desk.store.quarantined() == ["poison"]


def test_a_retried_job_is_answered(tmp_path: Path) -> None:
    with Stack(tmp_path) as stack:
        deadly = stack.start_supervised("deadly", DURE_WORKER_SCRIPTED_FAULTS="true")
        poison = stack.submit("<die>")
        stack.wait_for_state(poison, "failed")
        stop(deadly)
        stack.start_worker("healthy")
        done = subprocess.run(
            [DURE, "jobs", "retry", poison], env=stack.environ, capture_output=True, encoding="utf-8", check=True
        )
        stack.wait_for_state(done.stdout.split()[-1], "done")


@pytest.mark.parametrize(
    ("state", "gone", "words"),
    [
        ("queued", set(), "2 waiting jobs will be cancelled"),
        ("quarantined", {"poison-1"}, "1 quarantined jobs will be deleted"),
        ("ended", {"done-1", "failed-1", "cancelled-1"}, "3 ended jobs will be deleted"),
    ],
)
def test_purge_clears_what_was_named_and_nothing_else(desk: Desk, state: str, gone: set[str], words: str) -> None:
    desk.one_of_each()
    before = desk.states()
    said = desk.said("jobs", "purge", "--state", state, "--yes")
    assert words in said
    cancelled = {"queued-1": "cancelled", "queued-2": "cancelled"} if state == "queued" else {}
    assert desk.states() == {job_id: was for job_id, was in (before | cancelled).items() if job_id not in gone}
    assert f"{len(gone) or 2} purged" in said
    assert "Nothing to purge" in desk.said("jobs", "purge", "--state", state, "--yes")


def test_purge_leaves_what_ended_just_now_and_says_so(desk: Desk) -> None:
    desk.end("old")
    desk.redis.hset(keys.job(desk.end("fresh")), "finished", int(desk.store.now_s() * 1000))
    said = desk.said("jobs", "purge", "--state", "ended", "--yes")
    assert "1 ended less than 60 s ago and stay" in said
    assert desk.states() == {"fresh": "done"}


@pytest.mark.parametrize("state", ["queued", "quarantined", "ended"])
def test_purge_without_a_terminal_wants_yes_and_changes_nothing(desk: Desk, state: str) -> None:
    desk.one_of_each()
    before = desk.states()
    assert "--yes" in desk.refused("jobs", "purge", "--state", state)
    assert desk.states() == before


@pytest.mark.parametrize("state", ["running", "all", "[/]"])
def test_running_jobs_cannot_be_named_to_purge(desk: Desk, state: str) -> None:
    desk.start("a")
    assert "wanted one of queued, quarantined, ended" in desk.refused("jobs", "purge", "--state", state, "--yes")
    assert desk.state_of("a") == "running"


@pytest.mark.parametrize(
    ("typed", "status", "is_gone"), [("y\n", 0, True), ("n\n", 1, False), ("\n", 1, False), ("\x03", 1, False)]
)
def test_purge_on_a_terminal_asks_first(desk: Desk, typed: str, status: int, is_gone: bool) -> None:
    desk.queue("a")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [DURE, "jobs", "purge", "--state", "queued"], env=desk.environ | {"TERM": "xterm"}, stdin=theirs, stdout=theirs,
        stderr=theirs, start_new_session=True, preexec_fn=_take_terminal,  # noqa: PLW1509 - no threads here
    )  # fmt: skip
    os.close(theirs)
    os.set_blocking(ours, False)
    screen = ""

    def has_asked() -> bool:
        nonlocal screen
        try:
            screen += os.read(ours, 65536).decode(errors="replace")
        except (BlockingIOError, OSError):
            assert process.poll() is None, screen
        return "Go on?" in screen

    try:
        wait_for(has_asked, "the question")
        assert desk.state_of("a") == "queued"
        os.write(ours, typed.encode())
        assert process.wait(DEADLINE_S) == status
    finally:
        process.kill()
        os.close(ours)
    assert desk.state_of("a") == ("cancelled" if is_gone else "queued")


def _take_terminal() -> None:
    """Ctrl-C reaches a program only through its controlling terminal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_purge_that_is_interrupted_leaves_each_job_whole_or_gone(desk: Desk) -> None:
    job_ids = [f"job-{number:03d}" for number in range(300)]
    for job_id in job_ids:
        desk.queue(job_id)
    process = subprocess.Popen(
        [DURE, "jobs", "purge", "--state", "queued", "--yes"], env=desk.environ, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
    )  # fmt: skip
    wait_for(lambda: desk.state_of(job_ids[0]) == "cancelled", "the first one")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=DEADLINE_S)
    num_cancelled = sum(state == "cancelled" for state in desk.states().values())
    assert num_cancelled + desk.redis.zcard(keys.JOBS_QUEUED) == len(job_ids)
    # On a slow machine the signal may come when all is done.
    assert (process.returncode == 130 and "Stopped" in said) or num_cancelled == len(job_ids), said


def test_workers_shows_what_each_box_serves_and_how_busy_it_is(desk: Desk) -> None:
    WorkerRegistry(desk.redis).announce(BOX)
    said = desk.said("workers")
    assert re.search(r"box-1 +scripted +scripted +3/4 +2048 +26\.5 +1509 +\d s", said)
    assert "3 of 4 slots" in said
    [shown] = desk.json("workers")
    assert (shown["name"], shown["num_running"], shown["rss_mib"]) == ("box-1", 3, 1509)
    assert 0 <= shown["last_seen_s"] < DEADLINE_S


def test_a_worker_that_fell_silent_is_named_with_its_silence(desk: Desk) -> None:
    now_s = desk.store.now_s()
    desk.redis.zadd(keys.WORKERS, {"box-9": (now_s - 130) * 1000})
    said = desk.said("workers")
    assert "No worker is alive" in said
    assert "box-9" in said
    assert "Silent for 2 min" in said
    assert desk.json("workers") == []


EVERY_COMMAND = [
    ("jobs", "list"), ("jobs", "show", "a"), ("jobs", "cancel", "a"), ("jobs", "retry", "--all"),
    ("jobs", "purge", "--state", "ended", "--yes"), ("workers",),
]  # fmt: skip


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=" ".join)
def test_without_a_redis_each_command_says_how_to_name_one(desk: Desk, command: tuple[str, ...]) -> None:
    del desk.environ["DURE_REDIS_URL"]
    said = desk.refused(*command)
    assert "`dure up`" in said
    assert "--redis" in said


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=" ".join)
def test_while_redis_is_away_each_command_says_where_it_was_looked_for(desk: Desk, command: tuple[str, ...]) -> None:
    port = free_port()
    said = desk.refused(*command, "--redis", f"redis://:hush@127.0.0.1:{port}/0")
    assert f"Redis at 127.0.0.1:{port} does not answer" in said
    assert "start it" in said
    assert "hush" not in said


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://:hu#sh@127.0.0.1:6379/0", "%23"),
        ("redis://:hush@127.0.0.1:port/0", "cannot be read"),
        ("redis://:hush@127.0.0.1:6379/0?no_such_option=1", "cannot be read"),
        ("redis://:hush@127.0.0.1:6379/0?socket_timeout=soon", "cannot be read"),
        ("http://:hush@127.0.0.1/", "wanted redis://host:port/0"),
        ("127.0.0.1", "wanted redis://host:port/0"),
    ],
)
def test_an_address_that_cannot_be_read_is_refused_without_its_password(desk: Desk, url: str, words: str) -> None:
    said = desk.refused("jobs", "list", "--redis", url)
    assert words in said
    assert "hu" not in said.replace("should", "")


def test_a_wrong_password_is_named_and_not_shown(desk: Desk) -> None:
    url = desk.url.replace(desk.url.split(":")[2].split("@")[0], "hush")
    said = desk.refused("workers", "--redis", url)
    assert "refuses this login" in said
    assert "DURE_REDIS_URL" in said
    assert "hush" not in said


def test_what_is_no_redis_is_one_line_too(desk: Desk) -> None:
    class Http(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1024)
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Http) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        said = desk.refused("workers", "--redis", f"redis://127.0.0.1:{other.server_address[1]}/0")
        other.shutdown()
        thread.join()
    assert f"what listens at 127.0.0.1:{other.server_address[1]} does not answer like Redis" in said


@pytest.fixture
def limited(desk: Desk) -> Iterator[str]:
    """The address for a login without SCAN, INFO and CONFIG, as shipped in deploy/redis."""
    rights = "~* &* +@all -scan -info -config"
    desk.redis.execute_command("ACL", "SETUSER", "limited", "on", ">pw", *rights.split())
    yield re.sub(r"//:[^@]*@", "//limited:pw@", desk.url)
    desk.redis.execute_command("ACL", "DELUSER", "limited")


def test_a_login_that_may_not_scan_is_told_which_right_is_missing(desk: Desk, limited: str) -> None:
    desk.one_of_each()
    for command in (["jobs", "list", "--state", "all"], ["jobs", "purge", "--state", "ended", "--yes"]):
        assert "ACL SETUSER limited +scan" in desk.refused(*command, "--redis", limited)
    for state in ("open", "quarantined"):
        assert desk.json("jobs", "list", "--state", state, "--redis", limited)
    desk.said("jobs", "purge", "--state", "quarantined", "--yes", "--redis", limited)


def test_a_doctor_with_few_rights_is_content_with_what_it_can_see(desk: Desk, limited: str) -> None:
    found = checks(desk, "--redis", limited)
    assert (found["redis"]["status"], found["redis memory"]["status"]) == ("ok", "ok")
    assert found["redis disk"]["status"] == "warn"
    assert "hides its configuration" in found["redis disk"]["found"]


def test_the_redis_of_this_machines_dure_up_is_found_by_itself(desk: Desk) -> None:
    del desk.environ["DURE_REDIS_URL"]
    home = Path(desk.environ["DURE_HOME"])
    home.mkdir()
    run_file.write(home, run_file.Running(os.getpid(), 8000, desk.url))
    desk.queue("a")
    assert [row["id"] for row in desk.json("jobs", "list")] == ["a"]
    assert "started by `dure up`" in checks(desk)["redis"]["found"]
    other = desk.refused("jobs", "list", "--redis", f"redis://127.0.0.1:{free_port()}/0")
    assert "does not answer" in other


def checks(desk: Desk, *arguments: str, status: int = 0, **environ: str) -> dict[str, dict[str, str]]:
    """The doctor's findings by name, for the scripted model and ports that are free."""
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    wanted = {option: str(free_port()) for option in ("--port", "--web-port", "--flower-port")}
    wanted |= {"--model": catalog.SCRIPTED, **given}
    done = desk.run("doctor", "--quick", "--json", *(word for pair in wanted.items() for word in pair), **environ)
    assert done.stderr == ""
    assert done.returncode == status, done.stdout
    return {check["name"]: check for check in json.loads(done.stdout)}


def test_a_sound_machine_and_redis_are_ok(desk: Desk) -> None:
    WorkerRegistry(desk.redis).announce(BOX)
    found = checks(desk)
    machine_dependent = {"cpu", "disk", "memory"}
    assert {name for name, check in found.items() if check["status"] != "ok"} <= machine_dependent
    assert {"python", "packages", "state folder", "model", "embedded server", "redis", "redis rules", "redis disk",
            "redis memory", "latency", "clock", "workers", "jobs"} <= set(found)  # fmt: skip
    assert sum(name.startswith("port ") for name in found) == 3


def test_the_doctors_table_marks_each_finding_and_puts_the_remedy_below(desk: Desk) -> None:
    desk.quarantine("poison")
    done = desk.run("doctor", "--quick", "--model", "scripted", "--port", str(free_port()))
    assert re.search(r"✓ +python", done.stdout)
    assert re.search(r"! +작업 / jobs +0 queued, 0 running, 1 quarantined *\n +→ ", done.stdout)
    assert "to repair" in done.stdout.splitlines()[-1]


def test_without_a_redis_the_doctor_says_that_the_embedded_one_will_be_used(desk: Desk) -> None:
    del desk.environ["DURE_REDIS_URL"]
    found = checks(desk)
    assert found["redis"]["status"] == "ok"
    assert "embedded" in found["redis"]["found"]
    assert "redis rules" not in found


@pytest.fixture
def reconfigured(desk: Desk) -> Iterator[redis.Redis]:
    """What a test sets is set back; the server is shared."""
    before = desk.redis.config_get("maxmemory*", "append*")
    yield desk.redis
    for name in ("maxmemory-policy", "appendonly", "appendfsync", "maxmemory"):
        desk.redis.config_set(name, before[name])


@pytest.mark.parametrize(
    ("option", "value", "check", "verdict", "words"),
    [
        ("maxmemory-policy", "allkeys-lru", "redis rules", "bad", "maxmemory-policy noeviction"),
        ("appendonly", "no", "redis disk", "bad", "config set appendonly yes"),
        ("appendfsync", "everysec", "redis disk", "ok", ""),
    ],
)
def test_a_redis_that_would_lose_jobs_is_bad_and_the_remedy_is_a_command(
    desk: Desk, reconfigured: redis.Redis, option: str, value: str, check: str, verdict: str, words: str
) -> None:
    reconfigured.config_set(option, value)
    found = checks(desk, status=1 if verdict == "bad" else 0)[check]
    assert found["status"] == verdict
    assert words in found["remedy"]


def test_a_nearly_full_redis_is_worth_a_look(desk: Desk, reconfigured: redis.Redis) -> None:
    used = int(reconfigured.info("memory")["used_memory"])
    reconfigured.config_set("maxmemory", used + (1 << 17))
    found = checks(desk)["redis memory"]
    assert found["status"] == "warn"
    assert "dure jobs purge --state ended" in found["remedy"]


def test_a_redis_of_a_newer_release_is_bad(desk: Desk) -> None:
    desk.redis.set(keys.SCHEMA_OLDEST, 99)
    found = checks(desk, status=1)["redis rules"]
    assert "update dure" in found["remedy"]


def test_a_login_without_scripts_is_bad_and_the_rights_are_named(desk: Desk, limited: str) -> None:
    desk.redis.execute_command("ACL", "SETUSER", "limited", "-eval", "-evalsha")
    found = checks(desk, "--redis", limited, status=1)
    assert "users.acl" in found["redis rules"]["remedy"]
    assert found["latency"]["status"] == "ok"  # the others are looked at all the same


def test_a_redis_that_is_away_is_bad_and_the_machine_is_examined_all_the_same(desk: Desk) -> None:
    found = checks(desk, "--redis", f"redis://:hush@127.0.0.1:{free_port()}/0", status=1)
    assert found["redis"]["status"] == "bad"
    assert "start it" in found["redis"]["remedy"]
    assert "hush" not in json.dumps(found)
    assert found["python"]["status"] == "ok"
    assert "clock" not in found


@pytest.mark.parametrize(
    ("url", "words"), [("redis://:hu#sh@x/0", "%23"), ("redis://:wrong@{place}/0", "password in DURE_REDIS_URL")]
)
def test_an_address_or_login_that_is_wrong_is_a_finding(desk: Desk, url: str, words: str) -> None:
    place = desk.url.split("@")[1].split("/")[0]
    found = checks(desk, "--redis", url.format(place=place), status=1)["redis"]
    assert words in found["remedy"]


def test_a_port_in_use_is_bad_unless_this_machines_dure_up_uses_it(desk: Desk) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for option in ("--port", "--web-port", "--flower-port"):
            found = checks(desk, option, port, status=1)[f"port {port}"]
            assert found["status"] == "bad"
            assert option in found["remedy"]
        home = Path(desk.environ["DURE_HOME"])
        home.mkdir()
        run_file.write(home, run_file.Running(os.getpid(), 1, desk.url))
        assert checks(desk, "--web-port", port)[f"port {port}"]["status"] == "ok"


def test_a_gateway_that_runs_without_dure_up_is_recognised(scripted_stack: Stack, desk: Desk) -> None:
    found = checks(desk, "--port", str(scripted_stack.port))[f"port {scripted_stack.port}"]
    assert found["status"] == "warn"
    assert "another dure" in found["found"]


def test_a_state_folder_that_cannot_be_is_bad(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = checks(desk, status=1, DURE_HOME=str(tmp_path / "file" / "home"))["state folder"]
    assert "DURE_HOME" in found["remedy"]


def test_a_damaged_model_is_bad_and_a_missing_one_is_not(desk: Desk) -> None:
    name = "qwen2.5-coder-0.5b-instruct-q4_k_m"
    assert checks(desk, "--model", name)["model"]["status"] == "warn"
    path = catalog.weights_path(Path(desk.environ["DURE_HOME"]) / "models", catalog.find(name))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    found = checks(desk, "--model", name, status=1)["model"]
    assert "4 bytes" in found["found"]
    assert f"dure model fetch {name}" in found["remedy"]


def test_the_doctor_says_which_engine_a_worker_would_take_and_why(desk: Desk) -> None:
    """Of a model that is here; what decides on `auto` depends on the machine."""
    own_model(Path(desk.environ["DURE_HOME"]) / "models", "mine")
    found = checks(desk, "--model", "mine")["engine"]
    assert found["status"] == "ok"
    assert found["found"].startswith(("llama: ", "not chosen yet: "))
    assert len(found["found"]) > len("not chosen yet: ")
    named = checks(desk, "--model", "mine", DURE_WORKER_ENGINE="llama")["engine"]
    assert named["found"] == "llama: named by DURE_WORKER_ENGINE"
    wrong = checks(desk, "--model", "mine", status=1, DURE_WORKER_ENGINE="fastest")["engine"]
    assert wrong["status"] == "bad"
    assert "DURE_WORKER_ENGINE" in wrong["found"]
    assert "'llama'" in wrong["remedy"]
    assert "engine" not in checks(desk), "the scripted model has no choice"


@pytest.mark.weights
def test_the_real_weights_are_read_through_and_found_right(desk: Desk, small_model: Path) -> None:
    desk.environ["DURE_HOME"] = str(small_model.parents[2])
    done = desk.run("doctor", "--json", "--model", small_model.parent.name)
    assert done.stderr == ""  # no progress bar where nobody looks
    [found] = [check for check in json.loads(done.stdout) if check["name"] == "model"]
    assert found["found"].endswith("sha256 right")


BARE = """
import sys
for name in ("redis", "celery", "kombu", "psutil", "fastapi", "uvicorn", "flower", "xllamacpp"):
    sys.modules[name] = None
from dure.cli import main
main()
"""


@pytest.mark.parametrize("command", ["jobs list", "workers", "doctor --quick --json --model scripted"])
def test_on_a_machine_without_the_optional_packages_the_command_that_brings_them_is_named(
    desk: Desk, command: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE, *command.split()], env=desk.environ, capture_output=True, encoding="utf-8",
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "pip install 'dure[gateway,worker]'" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--model", "no-such-model"], "no model is called"), (["--redis", "localhost"], "wanted redis://host:port/0")],
)
def test_a_doctor_that_is_asked_for_what_is_not_there_says_so(desk: Desk, arguments: list[str], words: str) -> None:
    assert words in desk.refused("doctor", *arguments)


def test_a_misspelt_setting_is_refused_by_the_doctor_as_by_all(desk: Desk) -> None:
    assert "did you mean DURE_MODEL?" in desk.refused("doctor", DURE_MODLE="x")
