"""What a process may use, on machines drawn as files: bare hosts, both versions of cgroups, containers, broken ones."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure import machine_memory
from dure.machine_memory import Cores, Memory, parse_bytes, usable_cores, usable_memory

GIB = 1 << 30
NO_LIMIT_V1 = 9223372036854771712
V2_MOUNT = "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"
V1_MOUNTS = (
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
)


class Drawn:
    """A machine's files below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.put("proc/meminfo", "MemTotal:        3145728 kB\nMemFree: 100 kB\nMemAvailable:    2097152 kB\n")

    def put(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(text), "utf-8")

    def v2(self, group: str = "/", mounts: str = V2_MOUNT) -> None:
        self.put("proc/self/cgroup", f"0::{group}\n")
        self.put("proc/self/mountinfo", mounts)

    def v1(self, group: str = "/", mounts: str = V1_MOUNTS) -> None:
        self.put("proc/self/cgroup", f"9:memory:{group}\n8:cpu,cpuacct:{group}\n1:name=systemd:/init.scope\n")
        self.put("proc/self/mountinfo", mounts)

    @property
    def total(self) -> int:
        found = usable_memory(self.root)
        assert found is not None
        return found.total

    @property
    def available(self) -> int:
        found = usable_memory(self.root)
        assert found is not None
        return found.available


@pytest.fixture
def drawn(tmp_path: Path) -> Drawn:
    return Drawn(tmp_path)


def test_a_bare_host_offers_what_meminfo_says(drawn: Drawn) -> None:
    assert usable_memory(drawn.root) == Memory(3 * GIB, 2 * GIB, "host")
    assert usable_cores(drawn.root, 4) == Cores(4, None)


@pytest.mark.parametrize("version", [1, 2])
def test_a_limit_above_the_hosts_memory_changes_nothing(drawn: Drawn, version: int) -> None:
    limit = {1: drawn.v1, 2: drawn.v2}[version]
    limit("/box")
    drawn.put("sys/fs/cgroup/box/memory.max", 64 * GIB)
    drawn.put("sys/fs/cgroup/memory/box/memory.limit_in_bytes", 64 * GIB)
    assert usable_memory(drawn.root) == Memory(3 * GIB, 2 * GIB, "host")


def test_a_containers_own_limit_under_v2_is_found_with_its_path(drawn: Drawn) -> None:
    drawn.v2()
    drawn.put("sys/fs/cgroup/memory.max", f"{GIB}\n")
    drawn.put("sys/fs/cgroup/memory.current", GIB // 4)
    found = usable_memory(drawn.root)
    assert found == Memory(GIB, GIB * 3 // 4, f"cgroup v2 {drawn.root}/sys/fs/cgroup")


def test_the_word_max_is_no_limit(drawn: Drawn) -> None:
    drawn.v2()
    for name in ("memory.max", "memory.high"):
        drawn.put(f"sys/fs/cgroup/{name}", "max\n")
    drawn.put("sys/fs/cgroup/cpu.max", "max 100000\n")
    assert drawn.total == 3 * GIB
    assert usable_cores(drawn.root, 2).quota is None


@pytest.mark.parametrize("absurd", [NO_LIMIT_V1, 2**63 - 1, 2**64 - 4096, 1 << 60])
def test_the_absurd_numbers_of_v1_are_no_limit(drawn: Drawn, absurd: int) -> None:
    drawn.v1()
    drawn.put("sys/fs/cgroup/memory/memory.limit_in_bytes", absurd)
    drawn.put("sys/fs/cgroup/memory/memory.usage_in_bytes", 77)
    assert usable_memory(drawn.root) == Memory(3 * GIB, 2 * GIB, "host")


def test_a_limit_of_v1_is_found_and_reclaimable_cache_does_not_count_as_used(drawn: Drawn) -> None:
    drawn.v1("/docker/abc")
    folder = "sys/fs/cgroup/memory/docker/abc"
    drawn.put(f"{folder}/memory.limit_in_bytes", GIB)
    drawn.put(f"{folder}/memory.usage_in_bytes", GIB)
    drawn.put(f"{folder}/memory.stat", f"inactive_file 1\ntotal_inactive_file {GIB // 2}\n")
    assert (drawn.total, drawn.available) == (GIB, GIB // 2)


def test_reclaimable_cache_does_not_count_as_used_under_v2(drawn: Drawn) -> None:
    drawn.v2()
    drawn.put("sys/fs/cgroup/memory.max", GIB)
    drawn.put("sys/fs/cgroup/memory.current", GIB)
    drawn.put("sys/fs/cgroup/memory.stat", f"anon 5\ninactive_file {GIB // 4}\n")
    assert drawn.available == GIB // 4


@pytest.mark.parametrize("smallest", ["a", "a/b", "a/b/c"])
def test_of_nested_limits_the_smallest_wins_wherever_it_stands(drawn: Drawn, smallest: str) -> None:
    drawn.v2("/a/b/c")
    for group in ("a", "a/b", "a/b/c"):
        drawn.put(f"sys/fs/cgroup/{group}/memory.max", GIB if group == smallest else 2 * GIB)
    assert drawn.total == GIB


def test_a_group_beside_ours_does_not_limit_us(drawn: Drawn) -> None:
    drawn.v2("/a/b")
    drawn.put("sys/fs/cgroup/a/other/memory.max", 1)
    drawn.put("sys/fs/cgroup/a/b/below/memory.max", 1)
    assert drawn.total == 3 * GIB


def test_the_throttling_limit_of_a_systemd_unit_counts_too(drawn: Drawn) -> None:
    drawn.v2("/system.slice/dure.service")
    drawn.put("sys/fs/cgroup/system.slice/dure.service/memory.max", 2 * GIB)
    drawn.put("sys/fs/cgroup/system.slice/dure.service/memory.high", GIB)
    assert drawn.total == GIB


def test_a_container_that_sees_the_hosts_paths_finds_its_part_of_the_mount(drawn: Drawn) -> None:
    """Docker on v1: /proc/self/cgroup has the host's path, and only that part is mounted."""
    drawn.v1("/docker/abc", "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n")
    drawn.put("sys/fs/cgroup/memory/memory.limit_in_bytes", GIB)
    assert drawn.total == GIB


def test_both_versions_at_once_both_count(drawn: Drawn) -> None:
    drawn.put("proc/self/cgroup", "4:memory:/one\n0::/two\n")
    drawn.put("proc/self/mountinfo", V1_MOUNTS + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n")
    drawn.put("sys/fs/cgroup/memory/one/memory.limit_in_bytes", 2 * GIB)
    drawn.put("sys/fs/cgroup/unified/two/memory.max", GIB)
    assert drawn.total == GIB


@pytest.mark.parametrize("path", ["sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"])
def test_where_proc_shows_no_cgroups_the_usual_places_are_tried(drawn: Drawn, path: str) -> None:
    drawn.put(path, GIB)
    assert drawn.total == GIB


@pytest.mark.parametrize("text", ["", "\n", "lots", "-1", "1e9", "\ufffd", "1 2"])
def test_a_limit_that_is_no_number_is_no_limit(drawn: Drawn, text: str) -> None:
    drawn.v2()
    drawn.put("sys/fs/cgroup/memory.max", text)
    assert drawn.total == 3 * GIB


@pytest.mark.parametrize("text", ["", "0::", ":", "garbage", "9:memory", "0::/../../..", "\x00\x00"])
def test_an_unreadable_list_of_groups_leaves_the_hosts_memory(drawn: Drawn, text: str) -> None:
    drawn.put("proc/self/cgroup", text)
    drawn.put("proc/self/mountinfo", "nonsense - \n - cgroup2\n1 2 3\n")
    assert drawn.total == 3 * GIB


def test_no_files_at_all_is_an_unknown_machine(tmp_path: Path) -> None:
    assert usable_memory(tmp_path) is None
    assert usable_cores(tmp_path, 3) == Cores(3, None)


def test_a_container_whose_proc_is_hidden_still_has_its_limit(tmp_path: Path) -> None:
    Drawn(tmp_path).put("sys/fs/cgroup/memory.max", GIB)
    (tmp_path / "proc/meminfo").unlink()
    found = usable_memory(tmp_path)
    assert found is not None
    assert (found.total, found.available) == (GIB, GIB)


def test_a_group_beyond_its_limit_has_nothing_left_and_not_less(drawn: Drawn) -> None:
    drawn.v2()
    drawn.put("sys/fs/cgroup/memory.max", GIB)
    drawn.put("sys/fs/cgroup/memory.current", 2 * GIB)
    assert drawn.available == 0


@pytest.mark.parametrize(
    ("quota", "cores", "threads"),
    [("150000 100000", 1.5, 1), ("200000 100000", 2.0, 2), ("50000 100000", 0.5, 1), ("800000 100000", 8.0, 4)],
)
def test_a_quota_of_v2_bounds_the_threads_from_below_and_one_is_the_least(
    drawn: Drawn, quota: str, cores: float, threads: int
) -> None:
    drawn.v2()
    drawn.put("sys/fs/cgroup/cpu.max", quota)
    found = usable_cores(drawn.root, 4)
    assert (found.quota, found.num_threads) == (cores, threads)


@pytest.mark.parametrize(("quota", "cores"), [("-1", None), ("250000", 2.5), ("", None), ("many", None)])
def test_a_quota_of_v1_is_found_and_minus_one_is_none(drawn: Drawn, quota: str, cores: float | None) -> None:
    drawn.v1("/box")
    drawn.put("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", quota)
    drawn.put("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", 100000)
    assert usable_cores(drawn.root, 4).quota == cores


def test_of_nested_quotas_the_smallest_wins(drawn: Drawn) -> None:
    drawn.v2("/a/b")
    drawn.put("sys/fs/cgroup/a/cpu.max", "100000 100000")
    drawn.put("sys/fs/cgroup/a/b/cpu.max", "300000 100000")
    assert usable_cores(drawn.root, 4).quota == 1.0


@pytest.mark.parametrize("text", ["100000", "100000 0", "x y", "", "1 2 3 4"])
def test_a_broken_quota_never_raises(drawn: Drawn, text: str) -> None:
    drawn.v2()
    drawn.put("sys/fs/cgroup/cpu.max", text)
    assert usable_cores(drawn.root, 2).num_threads >= 1


def test_this_very_machine_can_be_read() -> None:
    memory = usable_memory()
    assert memory is None or 0 <= memory.available <= memory.total
    assert 1 <= usable_cores().num_threads <= machine_memory.usable_cores().affinity


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("3GB", 3 * 10**9), ("3gb", 3 * 10**9), ("3GiB", 3 * GIB), ("3072MiB", 3 * GIB), ("2.5g", GIB * 5 // 2),
        (" 3 GB ", 3 * 10**9), ("512m", 512 << 20), ("1TiB", 1 << 40), ("1048576", 1 << 20), ("100kb", 100_000),
        ("1.5GiB", GIB * 3 // 2),
    ],
)  # fmt: skip
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "GB",
        "3XB",
        "-3GB",
        "3,5GB",
        "three",
        "0",
        "0GB",
        "1e9",
        "inf",
        "nan",
        "3GB3",
        "３GB ",
        "0x10",
        "9" * 99,
    ],
)
def test_what_is_no_size_is_none(text: str) -> None:
    assert parse_bytes(text) is None


@given(st.text(max_size=12))
def test_no_text_makes_reading_a_size_fail(text: str) -> None:
    size = parse_bytes(text)
    assert size is None or size > 0
