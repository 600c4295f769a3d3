import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dure import children
from dure.children import Child, ChildGaveUp, Children
from support import wait_for

SLEEPER = "import time; time.sleep(600)"
LONG_S = 60.0


class Even(random.Random):
    """Dice that always show the middle."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


class Yard:
    """Children of a test, each with its own log, and what was said about them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.all = Children(self.said.append, Even())
        self.started: list[Child] = []

    def start(self, code: str, name: str = "일꾼", stop_s: float = LONG_S) -> Child:
        child = Child(
            name, [sys.executable, "-c", code], dict(os.environ), self.folder / "logs" / f"{name}.log", stop_s
        )
        self.started.append(child)
        self.all.start(child)
        return child

    def watch_until_given_up(self) -> str:
        with pytest.raises(ChildGaveUp) as caught:
            wait_for(self.all.watch_once, "the child is given up", LONG_S)
        return str(caught.value)


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    monkeypatch.setattr(children, "_FIRST_PAUSE_S", 0.01)
    made = Yard(tmp_path)
    yield made
    for child in made.started:
        if child.process is not None and child.process.poll() is None:
            child.process.kill()
            child.process.wait()


def pid_of(child: Child) -> int:
    assert child.process is not None
    return child.process.pid


def is_gone(pid: int) -> bool:
    """Ended, although perhaps nobody has asked for its exit status yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def test_a_child_that_dies_is_started_again(yard: Yard) -> None:
    child = yard.start(SLEEPER)
    first = pid_of(child)
    os.kill(first, signal.SIGKILL)

    def is_back() -> bool:
        yard.all.watch_once()
        return child.is_alive and pid_of(child) != first

    wait_for(is_back, "a new process", LONG_S)
    assert len(yard.said) == 1
    assert "일꾼: killed by SIGKILL; starting it again" in yard.said[0]
    assert str(child.log_path) in yard.said[0]


def test_a_child_that_lives_is_left_alone(yard: Yard) -> None:
    child = yard.start(SLEEPER)
    first = pid_of(child)
    for _ in range(3):
        yard.all.watch_once()
    assert pid_of(child) == first
    assert yard.said == []


def test_only_the_child_that_died_is_started_again(yard: Yard) -> None:
    stays, dies = yard.start(SLEEPER, "남는이"), yard.start(SLEEPER, "가는이")
    first = pid_of(stays), pid_of(dies)
    os.kill(first[1], signal.SIGTERM)

    def is_back() -> bool:
        yard.all.watch_once()
        return pid_of(dies) != first[1]

    wait_for(is_back, "a new process", LONG_S)
    assert pid_of(stays) == first[0]
    assert "killed by SIGTERM" in yard.said[0]


def test_a_child_that_dies_five_times_early_is_given_up_with_its_last_words(yard: Yard) -> None:
    yard.start("import sys; print('첫마디', flush=True); sys.exit('설정이 틀렸습니다')")
    message = yard.watch_until_given_up()
    assert "일꾼 died 5 times (exit status 1)" in message
    assert message.endswith("설정이 틀렸습니다")
    assert len(yard.said) == 4


def test_only_the_end_of_a_long_log_is_told(yard: Yard) -> None:
    yard.start("for n in range(50): print(f'{n}번째 줄')\nraise SystemExit(3)")
    message = yard.watch_until_given_up()
    assert "exit status 3" in message
    assert message.endswith("49번째 줄")
    assert "41번째 줄" not in message


def test_a_log_that_is_no_text_does_not_hide_the_failure(yard: Yard) -> None:
    yard.start("import sys; sys.stdout.buffer.write(b'\\xff\\xfe' + '끝'.encode()); sys.exit(1)")
    assert yard.watch_until_given_up().endswith("끝")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM"])
def test_a_child_given_up_after_deaths_by_signal_names_the_signal(yard: Yard, name: str) -> None:
    yard.start(f"import os, signal; os.kill(os.getpid(), signal.{name})")
    assert f"(killed by {name})" in yard.watch_until_given_up()


@pytest.mark.skipif(sys.platform != "linux", reason="real-time signals are Linux' here")
def test_a_death_by_a_signal_without_a_name_is_told_by_its_number(yard: Yard) -> None:
    number = signal.SIGRTMIN + 3
    yard.start(f"import os; os.kill(os.getpid(), {number})")
    assert str(int(number)) in yard.watch_until_given_up()


def test_the_pause_before_each_new_start_grows(yard: Yard) -> None:
    yard.start("raise SystemExit(1)")
    yard.watch_until_given_up()
    pauses = [float(text.split("again in ")[1].split(" s")[0]) for text in yard.said]
    assert pauses == [0.01, 0.02, 0.04, 0.08]


def test_the_pause_is_shaken_so_that_many_boxes_do_not_start_as_one() -> None:
    dice = [random.Random(seed) for seed in range(20)]
    assert len({round(Children(print, one)._dice.uniform(0.5, 1.5), 6) for one in dice}) == 20


def test_a_reloaded_child_is_stopped_in_order_and_started_again_at_once(yard: Yard, tmp_path: Path) -> None:
    path = tmp_path / "순서"
    child = yard.start(RECORDER.format(path=str(path), name="일꾼"))
    wait_for(lambda: is_ready(child), "the child ready", LONG_S)
    first = pid_of(child)
    yard.all.reload(Child)

    def is_back() -> bool:
        yard.all.watch_once()
        return child.is_alive and pid_of(child) != first

    wait_for(is_back, "a new process", LONG_S)
    assert path.read_text("utf-8").split() == ["일꾼"]
    assert yard.said == ["일꾼: stopped in order; starting it again"]
    assert child.num_early_deaths == 0


def test_a_child_that_does_not_stop_for_its_reload_is_killed(yard: Yard) -> None:
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('준비됨', flush=True); {SLEEPER}"
    child = yard.start(code, stop_s=0.1)
    wait_for(lambda: is_ready(child), "the child ready", LONG_S)
    first = pid_of(child)
    yard.all.reload(Child)

    def is_back() -> bool:
        yard.all.watch_once()
        return child.is_alive and pid_of(child) != first

    wait_for(is_back, "a new process", LONG_S)


def test_the_death_of_a_child_that_had_lived_long_does_not_count_with_the_early_ones(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "_HEALTHY_AFTER_S", 0.0)
    yard.start("raise SystemExit(1)")

    def has_died_often() -> bool:
        yard.all.watch_once()
        return len(yard.said) > 6

    wait_for(has_died_often, "more deaths than are forgiven early", LONG_S)


RECORDER = """
import pathlib, signal, sys, time
def leave(*_):
    with pathlib.Path({path!r}).open("a", encoding="utf-8") as file:
        file.write({name!r} + "\\n")
    sys.exit()
signal.signal(signal.SIGTERM, leave)
print("준비됨", flush=True)
time.sleep(600)
"""


def is_ready(child: Child) -> bool:
    return "준비됨" in child.log_tail()


def test_children_are_stopped_in_the_reverse_order_of_their_start(yard: Yard, tmp_path: Path) -> None:
    path = tmp_path / "순서"
    names = ["저장소", "문지기", "일꾼"]
    for name in names:
        yard.start(RECORDER.format(path=str(path), name=name), name)
    wait_for(lambda: all(map(is_ready, yard.started)), "all children ready", LONG_S)
    yard.all.stop()
    assert path.read_text("utf-8").split() == names[::-1]
    assert not [child for child in yard.started if child.is_alive]
    assert {child.how_it_ended() for child in yard.started} == {"exit status 0"}


def test_a_child_that_ignores_sigterm_is_killed_when_its_time_is_over(yard: Yard) -> None:
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('준비됨', flush=True); {SLEEPER}"
    child = yard.start(code, stop_s=0.1)
    wait_for(lambda: is_ready(child), "the child ready", LONG_S)
    yard.all.stop()
    assert child.how_it_ended() == "killed by SIGKILL"


def test_a_child_that_ends_in_time_is_not_killed(yard: Yard) -> None:
    child = yard.start(SLEEPER)
    yard.all.stop()
    assert child.how_it_ended() == "killed by SIGTERM"


def test_stopping_twice_or_after_a_death_does_nothing_more(yard: Yard) -> None:
    child = yard.start("raise SystemExit(7)")
    wait_for(lambda: not child.is_alive, "the child's end", LONG_S)
    yard.all.stop()
    yard.all.stop()
    assert child.how_it_ended() == "exit status 7"


def test_a_child_sees_the_environment_it_was_given_and_no_terminal(tmp_path: Path) -> None:
    shown = "os.environ.get('두레'), os.environ.get('SECRET'), repr(sys.stdin.read()), os.getsid(0) == os.getpid()"
    code = f"import os, sys; print({shown})"
    path = tmp_path / "a" / "b" / "일꾼.log"
    child = Child("일꾼", [sys.executable, "-c", code], {"두레": "모임", "PYTHONUTF8": "1"}, path)
    child.start()
    wait_for(lambda: not child.is_alive, "the child's end", LONG_S)
    assert path.read_text("utf-8").strip() == "모임 None '' True"


def test_a_log_that_grew_large_is_put_aside_at_the_next_start(yard: Yard) -> None:
    child = yard.start("print('옛날')")
    wait_for(lambda: not child.is_alive, "the child's end", LONG_S)
    os.truncate(child.log_path, children._LOG_BYTES + 1)
    child.command[-1] = "print('오늘')"
    child.start()
    wait_for(lambda: not child.is_alive, "the child's end", LONG_S)
    assert child.log_path.read_text("utf-8").split() == ["오늘"]
    assert child.log_path.with_name("일꾼.log.1").stat().st_size > children._LOG_BYTES


PARENT = """
import os, pathlib, sys, time
from dure.children import Child
command = [sys.executable, "-c", "import time; time.sleep(600)"]
child = Child("일꾼", command, dict(os.environ), pathlib.Path(sys.argv[1]))
child.start()
print(child.process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "일꾼.log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not is_gone(pid)
        parent.kill()
        parent.wait()
        wait_for(lambda: is_gone(pid), "the child's end", LONG_S)
