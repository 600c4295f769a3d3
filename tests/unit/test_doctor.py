"""What `dure doctor` says of machines and servers that are not at hand."""

import errno
import hashlib
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dure import catalog, memory_plan, model_names
from dure.catalog import CatalogModel, Trimming
from dure.doctor import machine, weights
from dure.doctor.check import Check, Status, of_error
from dure.doctor.engine import check_engine
from dure.doctor.machine import Memory
from dure.doctor.redis_server import (
    ServerVersion,
    judge_clock,
    judge_durability,
    judge_jobs,
    judge_latency,
    judge_memory,
    judge_version,
    judge_workers,
)
from dure.embedded_redis import find_server
from dure.engine_report import EngineReport
from dure.errors import SettingsError
from dure.memory_plan import Load, Plan
from dure.redis_policy import Durability
from dure.worker_registry import WorkerInfo

BIG = catalog.find("qwen2.5-coder-1.5b-instruct-q4_k_m")
SMALL = catalog.find("qwen2.5-coder-0.5b-instruct-q4_k_m")
GIB = 1 << 30
OPTION = "--port (DURE_GATEWAY_PORT)"


def never(_: int) -> bool:
    return False


def assert_has_remedy(check: Check, status: str, *words: str) -> None:
    """Whoever is told of a problem is told what to do, in both languages."""
    assert check.status == status, check
    assert check.remedy.en
    assert check.remedy.ko
    for word in words:
        assert word in f"{check.found} {check.remedy.en}", check


def test_an_old_python_is_bad_and_a_new_one_is_not() -> None:
    assert_has_remedy(machine.check_python((3, 10, 9)), "bad", "3.10.9", "3.11")
    assert machine.check_python((3, 11, 0)).status == "ok"
    assert machine.check_python((4, 0, 0)).status == "ok"


def test_missing_packages_are_named_with_the_command_that_brings_them() -> None:
    assert machine.check_packages().status == "ok"
    no_worker = machine.check_packages(lambda name: None if name == "xllamacpp" else name)
    assert_has_remedy(no_worker, "warn", "no worker", "xllamacpp", "pip install 'dure[worker]'")
    nothing = machine.check_packages(lambda _: None)
    assert_has_remedy(nothing, "warn", "redis", "fastapi", "pip install 'dure[gateway,worker]'")
    assert nothing.found.count("celery") == 1


def test_a_state_folder_that_can_be_written_is_ok_and_stays_empty(tmp_path: Path) -> None:
    assert machine.check_home(tmp_path).status == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_state_folder_that_does_not_exist_yet_is_not_made_by_the_doctor(tmp_path: Path) -> None:
    check = machine.check_home(tmp_path / "a" / "b")
    assert check.status == "ok"
    assert "made at the first start" in check.found
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("below", ["", "home"])
def test_a_file_in_the_place_of_the_state_folder_is_bad(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    assert_has_remedy(machine.check_home(tmp_path / "file" / below), "bad", "DURE_HOME")


def test_a_disk_that_cannot_be_looked_at_is_bad(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(_: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("shutil.disk_usage", fail)
    assert_has_remedy(machine.check_disk(tmp_path, 0), "bad", "Permission denied", "DURE_HOME")


@pytest.mark.parametrize(
    ("free", "fetch", "status"),
    [
        (199_999_999, 0, "bad"),
        (200_000_000, 0, "warn"),
        (999_999_999, 0, "warn"),
        (1_000_000_000, 0, "ok"),
        (2_300_000_000, 2 * BIG.num_bytes, "bad"),
        (2_500_000_000, 2 * BIG.num_bytes, "warn"),
        (4_000_000_000, 2 * BIG.num_bytes, "ok"),
    ],
)
def test_free_disk_is_judged_by_what_the_model_still_needs(free: int, fetch: int, status: str) -> None:
    check = machine.judge_disk(free, fetch)
    assert check.status == status
    assert (status == "ok") is (check.remedy.en == "")


def planned(model: CatalogModel) -> Plan:
    found = model_names.subject_by_shape(model)
    return memory_plan.plan(found.weights_bytes, found.shape)


def test_a_machine_that_is_too_small_for_the_model_is_bad() -> None:
    check = machine.check_memory(Memory(GIB, GIB), planned(BIG), is_serving=False)
    assert_has_remedy(check, "bad", "1.8 GiB", "dure model recommend")
    assert machine.check_memory(Memory(2 * GIB, 2 * GIB), planned(SMALL), is_serving=False).status == "ok"


def test_memory_that_others_use_is_a_warning_unless_the_worker_itself_uses_it() -> None:
    crowded = Memory(4 * GIB, GIB)
    assert_has_remedy(machine.check_memory(crowded, planned(BIG), is_serving=False), "warn", "close other programs")
    assert machine.check_memory(crowded, planned(BIG), is_serving=True).status == "ok"


def test_memory_is_no_matter_without_weights_or_without_a_worker() -> None:
    assert machine.check_memory(Memory(1, 1), None, is_serving=False).status == "ok"
    assert machine.check_memory(None, planned(BIG), is_serving=False).status == "ok"


@pytest.mark.parametrize(
    ("flags", "status"), [("fpu sse2 avx", "warn"), ("fpu avx2", "ok"), ("avx2 avx512f avx512_vnni avx_vnni", "ok")]
)
def test_a_processor_without_avx2_is_slow_and_the_fast_flags_are_named(flags: str, status: str) -> None:
    cpuinfo = f"processor\t: 0\nmodel name\t: Old CPU: 2010\nflags\t\t: {flags}\n\nprocessor\t: 1\n"
    check = machine.check_cpu(cpuinfo, "x86_64", 2)
    assert check.status == status
    assert "Old CPU: 2010, 2 cores" in check.found
    assert ("vnni" in check.found) is ("vnni" in flags)
    if status == "warn":
        assert_has_remedy(check, "warn", "no avx2", "dure worker")


def test_a_processor_of_another_kind_is_not_asked_for_avx2() -> None:
    assert machine.check_cpu("Features\t: fp asimd\n", "aarch64", 4).status == "ok"
    assert machine.check_cpu("", "arm64", 8).found == "arm64, 8 cores"
    assert machine.check_cpu("", "x86_64", 2).status == "ok"  # no /proc: unknown is not missing


def test_one_core_is_a_warning() -> None:
    assert_has_remedy(machine.check_cpu("flags: avx2\n", "x86_64", 1), "warn", "1 core", "dure worker")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_a_taken_port_is_bad_and_names_the_option_that_changes_it(taken_port: int) -> None:
    check = machine.check_port(OPTION, "127.0.0.1", taken_port, set(), never)
    assert_has_remedy(check, "bad", "another program", OPTION)
    assert str(taken_port) in check.name


def test_a_port_that_our_own_dure_up_uses_is_ok(taken_port: int) -> None:
    assert taken_port in machine.ports_of(os.getpid())
    assert machine.check_port(OPTION, "127.0.0.1", taken_port, {taken_port}, never).status == "ok"


def test_a_port_on_which_another_dure_answers_is_only_worth_a_look(taken_port: int) -> None:
    check = machine.check_port(OPTION, "127.0.0.1", taken_port, set(), lambda port: port == taken_port)
    assert_has_remedy(check, "warn", "another dure", OPTION)


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_bad_and_names_the_option(host: str) -> None:
    check = machine.check_port(OPTION, host, 8000, set(), never)
    assert_has_remedy(check, "bad", host, "--host")


def test_the_ports_of_a_process_that_has_gone_are_none() -> None:
    assert machine.ports_of(2**22 + 1) == set()


def test_what_does_not_speak_http_is_no_dure(taken_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_PROBE_TIMEOUT_S", 0.05)
    assert not machine.is_dure_port(taken_port)


def test_a_server_to_embed_is_needed_only_without_another_redis() -> None:
    def none() -> Path:
        raise SettingsError("no Redis or Valkey server was found: install one (Debian: `apt install valkey`)")

    assert machine.check_server_program(find_server, is_needed=True).status == "ok"
    assert machine.check_server_program(none, is_needed=False).status == "ok"
    check = machine.check_server_program(none, is_needed=True)
    assert check.status == "bad"
    assert check.remedy.en == "install one (Debian: `apt install valkey`)"


@pytest.mark.parametrize(
    ("message", "found", "remedy"),
    [
        ("it is wrong: change it: now", "it is wrong", "change it: now"),
        ("it is wrong (a: b): change it", "it is wrong (a: b)", "change it"),
        ("no remedy", "no remedy", ""),
        ("unclosed (bracket: change it", "unclosed (bracket", "change it"),
        ("", "", ""),
    ],
)
def test_an_errors_text_is_parted_into_what_is_wrong_and_what_to_do(message: str, found: str, remedy: str) -> None:
    check = of_error("x", SettingsError(message))
    assert (check.status, check.found, check.remedy.en) == (Status.BAD, found, remedy)


@pytest.fixture
def weights_here(tmp_path: Path) -> catalog.CatalogModel:
    """A model of three bytes, in its place below tmp_path."""
    content = b"abc"
    model = replace(SMALL, num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    path = catalog.weights_path(tmp_path, model)
    path.parent.mkdir()
    path.write_bytes(content)
    return model


def ignore(_: int) -> None:
    pass


def test_right_weights_are_ok_and_reading_them_is_reported(tmp_path: Path, weights_here: catalog.CatalogModel) -> None:
    read: list[int] = []
    check = weights.check_model(tmp_path, weights_here, read.append)
    assert check.status == "ok"
    assert "sha256 right" in check.found
    assert sum(read) == weights_here.num_bytes
    assert weights.fetch_bytes(tmp_path, weights_here) == 0


@pytest.mark.parametrize(("content", "words"), [(b"abx", "sha256"), (b"ab", "2 bytes instead of 3"), (b"", "0 bytes")])
def test_damaged_weights_are_bad_and_are_deleted_before_they_are_fetched_again(
    tmp_path: Path, weights_here: catalog.CatalogModel, content: bytes, words: str
) -> None:
    path = catalog.weights_path(tmp_path, weights_here)
    path.write_bytes(content)
    check = weights.check_model(tmp_path, weights_here, ignore)
    assert_has_remedy(check, "bad", words, f"rm '{path}' && dure model fetch {weights_here.name}")


def test_quick_says_that_the_sha256_was_not_looked_at(tmp_path: Path, weights_here: catalog.CatalogModel) -> None:
    catalog.weights_path(tmp_path, weights_here).write_bytes(b"abx")
    check = weights.check_model(tmp_path, weights_here, None)
    assert check.status == "ok"
    assert "not checked (--quick)" in check.found


def test_weights_that_are_not_here_yet_are_a_warning_and_need_disk(tmp_path: Path) -> None:
    check = weights.check_model(tmp_path, BIG, ignore)
    assert_has_remedy(check, "warn", "1.1 GB", f"dure model fetch {BIG.name}")
    assert weights.fetch_bytes(tmp_path, BIG) == 2 * BIG.num_bytes


def test_a_model_that_is_made_here_needs_disk_for_what_it_is_made_of_too(
    tmp_path: Path, weights_here: catalog.CatalogModel
) -> None:
    of_big, of_small = (replace(SMALL, name="made", made_by=Trimming(base.name, (), 1)) for base in (BIG, SMALL))
    assert weights.fetch_bytes(tmp_path, of_big) == max(2 * BIG.num_bytes, BIG.num_bytes + 2 * of_big.num_bytes)
    assert weights_here.name == SMALL.name
    assert weights.fetch_bytes(tmp_path, of_small) == 2 * of_small.num_bytes


def test_a_folder_in_the_place_of_the_weights_is_bad(tmp_path: Path, weights_here: catalog.CatalogModel) -> None:
    path = catalog.weights_path(tmp_path, weights_here)
    path.unlink()
    path.mkdir()
    model = replace(weights_here, num_bytes=path.stat().st_size)
    assert_has_remedy(weights.check_model(tmp_path, model, ignore), "bad", "cannot be read")


def test_the_scripted_model_needs_no_weights(tmp_path: Path) -> None:
    assert weights.check_model(tmp_path, None, ignore).status == "ok"
    assert weights.fetch_bytes(tmp_path, None) == 0


def version(text: str) -> ServerVersion:
    return ServerVersion.read({"redis_version": text})


@pytest.mark.parametrize("number", ["6.0.16", "5.0", "2.8.24", "nonsense", ""])
def test_a_redis_below_6_2_is_bad(number: str) -> None:
    assert_has_remedy(judge_version(version(number), "box:6379", is_from_up=False), "bad", "box:6379", "6.2")


@pytest.mark.parametrize("number", ["6.2.0", "7.4.1", "8.2", "10.0.0"])
def test_a_redis_from_6_2_on_is_ok(number: str) -> None:
    assert judge_version(version(number), "box:6379", is_from_up=False).status == "ok"


def test_a_valkey_is_called_by_its_own_version_and_judged_by_the_redis_that_it_is_like() -> None:
    info = ServerVersion.read({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"})
    assert (info.shown, info.number) == ("Valkey 9.1.2", (7, 2, 4))
    hello = ServerVersion.read({"server": "redis", "version": "8.2.1", "proto": 3})
    assert (hello.shown, hello.number) == ("Redis 8.2.1", (8, 2, 1))


def test_each_durability_has_its_verdict() -> None:
    verdicts = {durability: judge_durability(durability) for durability in Durability}
    assert verdicts[Durability.ALWAYS].status == verdicts[Durability.WAITED].status == "ok"
    assert_has_remedy(verdicts[Durability.SECOND], "warn", "WAITAOF", "appendfsync always")
    assert_has_remedy(verdicts[Durability.NONE], "bad", "appendonly yes")
    assert_has_remedy(verdicts[Durability.UNKNOWN], "warn", "+config|get")


def test_a_nearly_full_redis_is_a_warning_and_one_without_a_limit_is_not() -> None:
    assert judge_memory(80 << 20, 100 << 20).status == "ok"
    assert_has_remedy(judge_memory(81 << 20, 100 << 20), "warn", "81 MiB", "dure jobs purge --state ended")
    assert judge_memory(81 << 30, 0).status == "ok"


def test_a_far_redis_is_a_warning() -> None:
    assert judge_latency(0.0002).found.startswith("PING takes 0.2 ms")
    assert_has_remedy(judge_latency(0.05), "warn", "50.0 ms")


@pytest.mark.parametrize(("skew_s", "words"), [(6.0, "6 s behind"), (-7200.0, "7200 s ahead of")])
def test_a_clock_that_differs_is_a_warning_and_jobs_are_said_to_be_safe(skew_s: float, words: str) -> None:
    assert_has_remedy(judge_clock(skew_s), "warn", words, "Jobs are safe", "NTP")


@pytest.mark.parametrize("skew_s", [0.0, 5.0, -5.0])
def test_a_clock_within_five_seconds_is_ok(skew_s: float) -> None:
    assert judge_clock(skew_s).status == "ok"


def test_a_cluster_without_workers_for_the_model_is_a_warning() -> None:
    info = WorkerInfo("box", SMALL.name, "llama", num_slots=4, context=2048, pid=1)
    assert_has_remedy(judge_workers([], SMALL.name), "warn", "none is alive", "`dure worker`")
    assert_has_remedy(judge_workers([info], BIG.name), "warn", SMALL.name, f"dure worker --model {BIG.name}")
    assert judge_workers([info, info], SMALL.name).found == "2 alive, 8 slots"


def test_quarantined_jobs_are_a_warning_and_waiting_ones_are_not() -> None:
    assert judge_jobs(5, 2, 0).status == "ok"
    assert_has_remedy(judge_jobs(0, 0, 1), "warn", "1 quarantined", "dure jobs list --state quarantined")


def engine_report(engine: str, failure: str = "") -> EngineReport:
    measured = {"llama": {"failure": ""}, "ark": {"failure": failure}} if failure else {}
    return EngineReport(engine, "because", measured, Load(engine=engine))


def test_the_engine_is_told_with_its_reason_and_a_failed_candidate_with_a_remedy(tmp_path: Path) -> None:
    for report in (engine_report("llama"), engine_report("ark"), engine_report("auto")):
        check = check_engine(report, tmp_path)
        assert check.status == "ok"
        assert "because" in check.found
    assert "not chosen yet" in check_engine(engine_report("auto"), tmp_path).found
    failed = check_engine(engine_report("llama", "killed by SIGILL"), tmp_path)
    assert_has_remedy(failed, "warn", "llama", f"rm '{tmp_path / 'engine.json'}'")
