"""The machine itself: Python, packages, state folder, disk, memory, processor, ports, and a server to embed.

The checks take what was measured, so that tests can show them any machine.
"""

import contextlib
import errno
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import httpx

from dure import machine_memory
from dure.budget import Budget
from dure.cpu import Cpu
from dure.doctor.check import Check, Remedy, bad, gb, gib, of_error, ok, warn
from dure.errors import SettingsError
from dure.machine_memory import Memory
from dure.memory_plan import Plan
from dure.ports import bind_error

_OLDEST_PYTHON = (3, 11)
# The modules by which a role's packages are known.
_ROLES = {"gateway": ("fastapi", "uvicorn", "flower", "celery", "redis"), "worker": ("xllamacpp", "psutil", "celery")}

_FREE_BAD = 200_000_000  # jobs and logs of some days
_FREE_WARN = 1_000_000_000
_FEW_CORES = 2
_PROBE_BYTES = 1 << 16
_PROBE_TIMEOUT_S = 1.0

Finder = Callable[[str], object]


def check_python(version: tuple[int, int, int] = sys.version_info[:3]) -> Check:
    found = ".".join(map(str, version))
    if version[:2] >= _OLDEST_PYTHON:
        return ok("python", found)
    return bad("python", found, Remedy("install Python 3.11 or newer", "파이썬 3.11 이상을 설치하세요."))


def check_packages(find: Finder = importlib.util.find_spec) -> Check:
    missing = {role: [name for name in names if find(name) is None] for role, names in _ROLES.items()}
    lacking = [role for role, names in missing.items() if names]
    if not lacking:
        return ok("packages", "gateway and worker can run here")
    names = dict.fromkeys(name for role in lacking for name in missing[role])
    command = f"pip install 'dure[{','.join(lacking)}]'"
    return warn(
        "packages",
        f"no {' and no '.join(lacking)} can run here, missing: {', '.join(names)}",
        Remedy(f"if it is to run here: {command}", f"여기서 돌리려면: {command}"),
    )


def check_home(home: Path) -> Check:
    folder = _nearest(home)
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0" * _PROBE_BYTES)  # a full disk takes an empty file, but not this
    except OSError as error:
        return bad(
            "state folder",
            f"{home} cannot be written ({error.strerror})",
            Remedy("correct its rights, or choose another with DURE_HOME",
                   "권한을 고치거나 DURE_HOME으로 다른 폴더를 고르세요."),
        )  # fmt: skip
    return ok("state folder", str(home) if folder == home else f"{home} (made at the first start)")


def check_disk(home: Path, fetch_bytes: int) -> Check:
    """fetch_bytes: what a model that is still to be fetched will need there."""
    try:
        free = shutil.disk_usage(_nearest(home)).free
    except OSError as error:
        return bad("disk", f"{home}: {error.strerror}", Remedy("choose another folder with DURE_HOME",
                                                               "DURE_HOME으로 다른 폴더를 고르세요."))  # fmt: skip
    return judge_disk(free, fetch_bytes)


def judge_disk(free: int, fetch_bytes: int) -> Check:
    found = f"{gb(free)} free"
    if fetch_bytes:
        found += f"; fetching the model needs up to {gb(fetch_bytes)}"
    remedy = Remedy(
        "free some space, or choose another folder with DURE_HOME",
        "공간을 비우거나 DURE_HOME으로 다른 폴더를 고르세요.",
    )
    if free < fetch_bytes + _FREE_BAD:
        return bad("disk", found, remedy)
    return warn("disk", found, remedy) if free < fetch_bytes + _FREE_WARN else ok("disk", found)


def check_memory(memory: Memory | None, planned: Plan | None, *, is_serving: bool) -> Check:
    """No memory: it cannot be measured. No plan: a model without weights. is_serving: a worker here holds it now."""
    if memory is None:
        return ok("memory", "not measured: psutil is not here, so no worker is either")
    found = f"{gib(memory.total)} ({memory.source}), {gib(memory.available)} of it available"
    if planned is None:
        return ok("memory", found)
    found += f"; a worker is planned to hold {gib(planned.rss)} at its peak"
    if not Budget.of(memory).holds(planned):
        return bad("memory", found, Remedy(
            "let it choose fewer slots, --fit, or serve a smaller model: `dure model recommend`, then --model NAME",
            "--fit으로 자리를 줄이거나 더 작은 모델을 쓰세요. `dure model recommend`로 보고 --model 이름으로 고릅니다.",
        ))  # fmt: skip
    if memory.available < planned.rss and not is_serving:
        return warn("memory", found, Remedy(
            "close other programs, or serve a smaller model: `dure model recommend`, then --model NAME",
            "다른 프로그램을 닫거나 더 작은 모델을 쓰세요. `dure model recommend`로 보고 --model 이름으로 고릅니다.",
        ))  # fmt: skip
    return ok("memory", found)


def check_cpu(cpuinfo: str, machine: str, num_cores: int) -> Check:
    """cpuinfo: /proc/cpuinfo, empty where there is none."""
    cpu = Cpu.of(cpuinfo, machine)
    fast = sorted(cpu.flags & {"avx2", "avx_vnni", "avx512f", "avx512_vnni"})
    found = ", ".join([cpu.name or machine, f"{num_cores} core{'s' if num_cores > 1 else ''}", *fast])
    if cpu.is_x86 and cpu.flags and "avx2" not in cpu.flags:
        return warn(
            "cpu",
            f"{found}, no avx2",
            Remedy("answers will be several times slower: lend a newer box with `dure worker`",
                   "답이 몇 배 느립니다. 더 새로운 컴퓨터를 `dure worker`로 보태세요."),
        )  # fmt: skip
    if num_cores < _FEW_CORES:
        return warn(
            "cpu",
            found,
            Remedy("gateway and worker share one core: lend a further box with `dure worker`",
                   "게이트웨이와 작업기가 코어 하나를 나눠 씁니다. 다른 컴퓨터를 `dure worker`로 보태세요."),
        )  # fmt: skip
    return ok("cpu", found)


def check_port(option: str, host: str, port: int, own_ports: set[int], is_dure: Callable[[int], bool]) -> Check:
    """own_ports: on which this machine's `dure up` listens. is_dure(port): whether a part of dure answers there."""
    name = f"port {port}"
    failure = bind_error(host, port)
    if failure is None:
        return ok(name, "free")
    if port in own_ports:
        return ok(name, "used by this machine's `dure up`")
    another = Remedy(f"choose another with {option}", f"다른 포트를 고르세요: {option}")
    if failure == errno.EADDRNOTAVAIL:
        host_option = "--host (DURE_GATEWAY_HOST)"
        return bad(
            name,
            f"{host} is not an address of this machine",
            Remedy(f"choose another with {host_option}", f"다른 주소를 고르세요: {host_option}"),
        )
    if failure != errno.EADDRINUSE:
        return bad(name, f"cannot be listened on ({os.strerror(failure)})", another)
    if is_dure(port):
        return warn(
            name,
            "another dure answers there",
            Remedy(f"nothing, if that is meant; for a second one choose another with {option}",
                   f"일부러 켜 둔 것이면 그대로 두세요. 하나 더 켜려면 다른 포트를 고르세요: {option}"),
        )  # fmt: skip
    return bad(name, "in use by another program", another)


def check_server_program(find: Callable[[], Path], *, is_needed: bool) -> Check:
    """is_needed: no other Redis is named, so `dure up` starts one."""
    try:
        return ok("embedded server", str(find()))
    except SettingsError as error:
        return of_error("embedded server", error) if is_needed else ok("embedded server", "none, and none is needed")


def measured_memory() -> Memory | None:
    found = machine_memory.usable_memory()
    if found is not None:
        return found
    try:
        import psutil  # noqa: PLC0415 - optional
    except ImportError:
        return None
    seen = psutil.virtual_memory()
    return Memory(seen.total, seen.available)


def measured_cpu() -> tuple[str, str, int]:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text("utf-8", errors="replace") if cpuinfo.exists() else ""
    return text, platform.machine(), machine_memory.usable_cores().num_threads


def ports_of(pid: int) -> set[int]:
    """On which a process and its children listen."""
    try:
        import psutil  # noqa: PLC0415 - optional
    except ImportError:
        return set()
    found: set[int] = set()
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            found |= {each.laddr.port for each in one.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
    return found


def is_dure_port(port: int) -> bool:
    """Whether a gateway or a Flower answers there; one that was started without `dure up` stands in no file."""
    for path, answer in (("healthz", '{"status":"ok"}'), ("healthcheck", "OK")):
        with contextlib.suppress(httpx.HTTPError, UnicodeDecodeError):
            if httpx.get(f"http://127.0.0.1:{port}/{path}", timeout=_PROBE_TIMEOUT_S).text == answer:
                return True
    return False


def _nearest(folder: Path) -> Path:
    """The folder, or what exists on the way to it."""
    # Not Path.exists, which raises where a folder on the way may not be entered.
    return next((path for path in (folder, *folder.absolute().parents) if os.access(path, os.F_OK)), folder)
