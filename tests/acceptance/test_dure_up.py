"""The `dure` command as a user types it: real processes, real signals."""

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx
import psutil
import pytest

from support import DEADLINE_S, Stack, Valkey, free_port, wait_for

DURE = str(Path(sys.executable).with_name("dure"))


class Up:
    """`dure up` with the scripted model and free ports."""

    def __init__(self, home: Path, *arguments: str, **environ: str) -> None:
        self.home = home
        self.port, self.web_port, self.flower_port = free_port(), free_port(), free_port()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DURE_")}
        self.environ = clean | {"DURE_HOME": str(home), "COLUMNS": "120", **environ}
        self.output = home.parent / f"up-{self.port}.out"
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [DURE, "up", "--model", "scripted", f"--port={self.port}", f"--web-port={self.web_port}",
                 f"--flower-port={self.flower_port}", *arguments],
                env=self.environ, stdout=output, stderr=output,
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def said(self) -> str:
        return self.output.read_text("utf-8", errors="replace")

    def wait_until_ready(self) -> None:
        wait_for(lambda: self.process.poll() is not None or "is ready" in self.said(), "dure up")
        assert self.process.poll() is None, self.said()

    def children(self) -> dict[str, psutil.Process]:
        return {_name(child): child for child in psutil.Process(self.process.pid).children()}

    def chat(self, message: str, **fields: object) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}/api/chat"
        return httpx.post(url, json={"message": message, **fields}, timeout=DEADLINE_S)


def _name(process: psutil.Process) -> str:
    """The module it runs, or its program; servers put more into their title, and a dying process has none."""
    try:
        line = process.cmdline() or [""]
    except psutil.NoSuchProcess:
        return ""
    modules = ("dure.flower", "dure_worker", "dure_gateway")
    return next((word for word in modules if word in line), Path(line[0].split(" ")[0]).name)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("up") / "home") as up:
        up.wait_until_ready()
        yield up


def test_it_starts_four_children_and_answers_on_both_ports(up: Up) -> None:
    assert set(up.children()) == {"valkey-server", "dure.flower", "dure_worker", "dure_gateway"}
    assert "안녕하세요" in up.chat("안녕하세요!", max_tokens=30).json()["reply"]
    assert httpx.get(f"http://127.0.0.1:{up.web_port}/").status_code == 200
    for port in (up.port, up.web_port, up.flower_port):
        assert str(port) in up.said()


def test_flower_asks_for_the_printed_password_and_shows_the_task(up: Up) -> None:
    url = f"http://127.0.0.1:{up.flower_port}"
    assert httpx.get(f"{url}/api/tasks").status_code == 401
    password = up.said().split("(dure / ")[1].split(")")[0]
    job_id = up.chat("플라워에 보이나요?", max_tokens=5).json()["job_id"]

    def task() -> dict[str, str] | None:
        answer = httpx.get(f"{url}/api/task/info/{job_id}", auth=("dure", password))
        return answer.json() if answer.is_success and answer.json()["state"] == "SUCCESS" else None

    shown = wait_for(task, "Flower to show the task")
    assert shown["name"] == "dure.chat"
    assert "플라워" not in json.dumps(shown, ensure_ascii=False)


def test_flower_shows_the_queues_of_the_broker(up: Up) -> None:
    """Flower knows a broker by the name of its transport; one of our own hid it once."""
    password = up.said().split("(dure / ")[1].split(")")[0]
    url = f"http://127.0.0.1:{up.flower_port}"
    assert httpx.get(f"{url}/broker", auth=("dure", password)).status_code == 200
    assert "active_queues" in httpx.get(f"{url}/api/queues/length", auth=("dure", password)).json()


def test_the_embedded_server_wants_a_password_and_hears_loopback_only(up: Up) -> None:
    run_file = up.home / "run.json"
    assert run_file.stat().st_mode & 0o077 == 0
    redis_port = int(json.loads(run_file.read_text())["redis_url"].rsplit(":", 1)[1].split("/")[0])
    with socket.create_connection(("127.0.0.1", redis_port)) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(64).startswith(b"-NOAUTH")
    server = up.children()["valkey-server"]
    assert {listener.laddr.ip for listener in server.net_connections("tcp") if listener.status == "LISTEN"} == {
        "127.0.0.1"
    }
    assert not any("requirepass" in word for word in server.cmdline())


def test_a_second_start_from_the_same_folder_is_refused(up: Up) -> None:
    with Up(up.home) as second:
        assert second.process.wait(DEADLINE_S) == 1
        assert "already runs" in second.said()


def test_a_taken_port_is_named_with_the_setting_that_changes_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for option in ("--port", "--web-port", "--flower-port"):
            with Up(tmp_path / option.strip("-"), f"{option}={port}") as up:
                assert up.process.wait(DEADLINE_S) == 1
                assert f"{port} is in use: choose another with {option}" in " ".join(up.said().split())


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"DURE_MODLE": "x"}, "DURE_MODLE is not a setting: did you mean DURE_MODEL?"),
        ({"DURE_REDIS_URL": "localhost"}, "wanted redis://host:port/0"),
        ({"DURE_WORKER_SLOTS": "many"}, "DURE_WORKER_SLOTS = 'many'"),
        ({"DURE_GATEWAY_MAX_QUEUE": "1"}, "did you mean DURE_GATEWAY_MAX_QUEUED?"),
    ],
)
def test_a_wrong_setting_stops_the_start_and_is_named(tmp_path: Path, environ: dict[str, str], words: str) -> None:
    with Up(tmp_path / "home", **environ) as up:
        assert up.process.wait(DEADLINE_S) == 1
        assert words in " ".join(up.said().split())


def test_an_unknown_model_is_named_before_anything_starts(tmp_path: Path) -> None:
    with Up(tmp_path / "home", "--model", "no-such-model") as up:
        assert up.process.wait(DEADLINE_S) == 1
        assert "qwen2.5-coder-0.5b-instruct-q4_k_m" in up.said()


def test_a_killed_worker_is_started_again(up: Up) -> None:
    worker = up.children()["dure_worker"]
    worker.kill()
    wait_for(lambda: up.children().get("dure_worker", worker).pid != worker.pid, "a new worker")
    assert up.chat("다시 살아났나요?", max_tokens=5).status_code == 200
    assert "killed by SIGKILL" in up.said()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_all_and_the_next_start_finds_the_jobs(tmp_path: Path, number: signal.Signals) -> None:
    home = tmp_path / "home"
    with Up(home) as first:
        first.wait_until_ready()
        job = first.chat("기억하나요?", max_tokens=5).json()
        pids = [child.pid for child in first.children().values()]
        first.process.send_signal(number)
        assert first.process.wait(DEADLINE_S) == 0
        assert not any(map(psutil.pid_exists, pids))
        assert "All stopped" in first.said()
    with Up(home) as second:
        second.wait_until_ready()
        kept = httpx.get(f"http://127.0.0.1:{second.port}/v1/jobs/{job['job_id']}").json()
        assert kept["reply"] == job["reply"]


def test_a_killed_parent_leaves_no_children(tmp_path: Path) -> None:
    with Up(tmp_path / "home") as up:
        up.wait_until_ready()
        pids = [child.pid for child in up.children().values()]
        up.process.kill()
        up.process.wait()
        wait_for(lambda: not any(map(psutil.pid_exists, pids)), "the children's end")


def test_the_users_own_redis_is_used_when_named(tmp_path: Path) -> None:
    server = Valkey(tmp_path / "own")
    server.start()
    try:
        with Up(tmp_path / "home", DURE_REDIS_URL=server.url) as up:
            up.wait_until_ready()
            assert set(up.children()) == {"dure.flower", "dure_worker", "dure_gateway"}
            job_id = up.chat("어디에 적히나요?", max_tokens=5).json()["job_id"]
            assert server.client().hget(f"job:{job_id}", "state") == "done"
    finally:
        server.stop()


def test_dure_worker_joins_a_cluster_and_leaves_it(tmp_path: Path) -> None:
    with Stack(tmp_path) as stack:
        job_id = stack.submit("누가 답하나요?", max_tokens=5)
        command = [DURE, "worker", "--redis", stack.valkey.url, "--model", "scripted", "--slots", "2"]
        environ = {name: value for name, value in stack.environ.items() if name != "DURE_REDIS_URL"}
        process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
        try:
            stack.wait_for_state(job_id, "done")
            assert stack.http.get("/readyz").json()["workers"][0]["slots"] == 2
        finally:
            process.terminate()
        assert process.wait(DEADLINE_S) == 0
        assert stack.http.get("/readyz").json()["workers"] == []


def test_dure_worker_on_the_machine_of_dure_up_joins_it_by_itself(up: Up) -> None:
    def names() -> list[str]:
        return [worker["name"] for worker in httpx.get(f"http://127.0.0.1:{up.port}/readyz").json()["workers"]]

    before = names()
    process = subprocess.Popen([DURE, "worker", "--model", "scripted"], env=up.environ, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(names()) > len(before), "the second worker")
    finally:
        process.terminate()
    assert process.wait(DEADLINE_S) == 0


class Terminal:
    """`dure chat` behind a pseudo-terminal: typed into, and read."""

    def __init__(self, *arguments: str, environ: dict[str, str]) -> None:
        self._fd, other = pty.openpty()
        self.process = subprocess.Popen(
            [DURE, "chat", *arguments], stdin=other, stdout=other, stderr=other, env=environ, start_new_session=True
        )
        os.close(other)
        os.set_blocking(self._fd, False)
        self.screen = ""

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait_for(self, text: str) -> None:
        def is_there() -> bool:
            with contextlib.suppress(BlockingIOError, OSError):
                self.screen += os.read(self._fd, 65536).decode(errors="replace")
            return text in self.screen

        wait_for(is_there, text)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)


@pytest.fixture
def terminal(scripted_stack: Stack) -> Iterator[Terminal]:
    environ = scripted_stack.environ | {"TERM": "xterm", "COLUMNS": "100", "PYTHONUTF8": "1"}
    found = Terminal("--url", scripted_stack.url, environ=environ)
    yield found
    found.close()


def test_a_terminal_chat_streams_answers_and_keeps_its_history(terminal: Terminal) -> None:
    terminal.wait_for("두레입니다")
    terminal.type("두레가 뭐예요?\n")
    terminal.wait_for("라고 물으셨습니다.")
    terminal.wait_for("tokens/s")
    terminal.type("/history\n")
    terminal.wait_for("› 두레가 뭐예요?")
    terminal.type("/style rude\n")
    terminal.wait_for("→ rude")
    terminal.type("들려요?\n")
    terminal.wait_for("polite, casual, intimate, expert")
    terminal.type("/quit\n")
    assert terminal.process.wait(DEADLINE_S) == 0


def test_a_terminal_chat_without_a_gateway_says_how_to_start_one(tmp_path: Path) -> None:
    terminal = Terminal("--url", "http://127.0.0.1:1", environ=os.environ | {"DURE_HOME": str(tmp_path)})
    try:
        terminal.wait_for("두레입니다")
        terminal.type("안녕\n")
        terminal.wait_for("dure up")
    finally:
        terminal.close()
