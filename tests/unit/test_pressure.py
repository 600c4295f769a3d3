"""A worker whose memory runs short: caches, then long prompts, then a start anew in order."""

from dataclasses import dataclass, field

from dure_worker.pressure import Level, Pressure


@dataclass
class Worker:
    """Its memory and clock are what the test says."""

    rss_mib: int = 500
    now: float = 0.0
    after_trim_mib: int | None = None
    did: list[str] = field(default_factory=list)

    def pressure(self, limit_mib: int = 1000) -> Pressure:
        return Pressure(
            lambda: self.rss_mib, limit_mib, lambda: self.did.append("restart"), self.trim, lambda: self.now
        )

    def trim(self) -> None:
        self.did.append("trim")
        self.rss_mib = self.after_trim_mib or self.rss_mib


def look(worker: Worker, pressure: Pressure, seconds: float) -> None:
    for _ in range(int(seconds * 2)):
        worker.now += 0.5
        pressure.look()


def test_below_its_limit_nothing_happens() -> None:
    worker = Worker(rss_mib=950)
    pressure = worker.pressure()
    look(worker, pressure, 120)
    assert worker.did == []
    assert not pressure.is_tight


def test_without_a_limit_nothing_ever_happens() -> None:
    worker = Worker(rss_mib=1 << 20)
    pressure = worker.pressure(limit_mib=0)
    look(worker, pressure, 120)
    assert worker.did == []


def test_caches_are_trimmed_first_and_if_that_helps_nothing_else_is_done() -> None:
    worker = Worker(rss_mib=990, after_trim_mib=700)
    pressure = worker.pressure()
    look(worker, pressure, 120)
    assert worker.did == ["trim"]
    assert pressure.level is Level.EASY


def test_long_prompts_are_refused_only_after_trimming_did_not_help() -> None:
    worker = Worker(rss_mib=965)
    pressure = worker.pressure()
    pressure.look()
    assert worker.did == ["trim"]
    assert not pressure.is_tight
    pressure.look()
    assert pressure.is_tight
    worker.rss_mib = 800
    pressure.look()
    assert not pressure.is_tight, "they are welcome again"


def test_it_starts_anew_only_after_some_patience_and_only_once() -> None:
    worker = Worker(rss_mib=985)
    pressure = worker.pressure()
    look(worker, pressure, 5)
    assert worker.did == ["trim"]
    look(worker, pressure, 60)
    assert worker.did == ["trim", "restart"]
    assert pressure.level is Level.OVER
    worker.rss_mib = 100
    pressure.look()
    assert pressure.level is Level.OVER, "what has begun to stop does not take it back"


def test_long_prompts_do_not_wait_for_ever() -> None:
    worker = Worker(rss_mib=965)
    pressure = worker.pressure()
    look(worker, pressure, 30)
    assert worker.did == ["trim"]
    look(worker, pressure, 60)
    assert worker.did == ["trim", "restart"]
