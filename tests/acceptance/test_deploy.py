"""What deploy/ ships: valid for the tools that read it, and its commands really run."""

import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.options import options as flower_options

from deployed import (
    DEPLOY,
    PASSWORD,
    PLACEHOLDER,
    Cluster,
    GuardedValkey,
    Program,
    commented_names,
    compose_file,
    compose_program,
    read_env,
    read_unit,
    unit_program,
)
from dure import embedded_redis
from dure.job_store import JobStore
from dure.settings import Settings
from dure.worker_registry import WorkerRegistry
from dure_gateway.settings import GatewaySettings
from dure_worker.settings import WorkerSettings
from support import DEADLINE_S, new_job, wait_for

SYSTEMD = DEPLOY / "systemd"
UNITS = sorted(SYSTEMD.glob("*.service"))
DROP_IN = SYSTEMD / "redis.service.d" / "dure.conf"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
ENV_EXAMPLES = sorted([*DEPLOY.rglob("*.env.example"), *DEPLOY.rglob(".env.example")])
# As an operator fills it in.
ENV = read_env(DEPLOY / "compose" / ".env.example") | {
    "DURE_REDIS_PASSWORD": PASSWORD,
    "DURE_FLOWER_PASSWORD": PASSWORD,
}
SETTINGS = (Settings, GatewaySettings, WorkerSettings)
# uvicorn ends in order and then by the signal that asked for it. systemd counts that as success (SuccessExitStatus=).
BY_SIGTERM = -signal.SIGTERM


@pytest.fixture
def units_here(tmp_path: Path) -> Path:
    """The units with the programs of this environment, and a unit of a distribution's Redis for the drop-in."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    folder = shutil.copytree(SYSTEMD, tmp_path / "systemd")
    for unit in folder.glob("*.service"):
        text = unit.read_text("utf-8").replace("/opt/dure/bin", str(Path(sys.executable).parent))
        unit.write_text(text, "utf-8")
    (folder / "redis.service").write_text(f"[Service]\nExecStart={embedded_redis.find_server()}\n", "utf-8")
    return folder


@pytest.mark.parametrize("name", [*(unit.name for unit in UNITS), "redis.service"])
def test_systemd_accepts_each_unit_without_a_warning(units_here: Path, name: str) -> None:
    command = ["systemd-analyze", "verify", "--man=no", str(units_here / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_would_complain_about_a_misspelt_key_of_the_drop_in(units_here: Path) -> None:
    drop_in = units_here / "redis.service.d" / "dure.conf"
    drop_in.write_text(drop_in.read_text("utf-8").replace("MemoryMax=", "MemoryMaximum="), "utf-8")
    command = ["systemd-analyze", "verify", "--man=no", str(units_here / "redis.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert "MemoryMaximum" in done.stderr


def test_the_units_are_equally_hardened() -> None:
    found = [re.search(r"(?s)\nUMask=.*?\n\n", unit.read_text("utf-8")) for unit in UNITS]
    assert None not in found
    assert len({block and block[0] for block in found}) == 1


def test_the_compose_file_fits_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_docker_accepts_the_compose_file(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    version = [docker or "docker", "compose", "version"]
    if docker is None or subprocess.run(version, capture_output=True, check=False).returncode:
        pytest.skip("no `docker compose` on this machine")
    env = tmp_path / ".env"
    env.write_text("".join(f"{name}={value}\n" for name, value in ENV.items()), "utf-8")
    command = [docker, "compose", "--file", str(COMPOSE), "--env-file", str(env), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_compose_file_asks_for_the_variables_of_its_env_example_and_no_others() -> None:
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", COMPOSE.read_text("utf-8")))
    assert asked == set(ENV)


def test_without_passwords_compose_starts_nothing() -> None:
    with pytest.raises(AssertionError, match="DURE_REDIS_PASSWORD: set it"):
        compose_file(read_env(DEPLOY / "compose" / ".env.example"))


def shipped_environments() -> dict[str, dict[str, str]]:
    services = compose_file(ENV)["services"]
    compose = {f"compose {name}": services[name]["environment"] for name in ("gateway", "worker", "flower")}
    return {unit.name: unit_program(unit).environ for unit in UNITS} | compose


@pytest.mark.parametrize("where", shipped_environments())
def test_every_variable_that_is_shipped_is_a_setting_with_a_value_that_is_taken(where: str) -> None:
    environ = shipped_environments()[where]
    for settings in SETTINGS:
        settings.read(environ)
    import flower.options  # noqa: F401 - defines them

    known = {f"FLOWER_{name.upper()}" for name in flower_options}
    assert {name for name in environ if not name.startswith("DURE_")} <= known


@pytest.mark.parametrize("path", ENV_EXAMPLES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_variable_that_an_env_example_only_mentions_is_a_setting(path: Path) -> None:
    assert commented_names(path) <= known_variables()


def test_no_password_is_shipped() -> None:
    for name, environ in shipped_environments().items():
        for variable in ("DURE_REDIS_URL", "FLOWER_BASIC_AUTH"):
            assert re.search(f":({PLACEHOLDER}|{PASSWORD})(@|$)", environ.get(variable, f":{PASSWORD}")), name
    assert f">{PLACEHOLDER} " in (DEPLOY / "redis" / "users.acl").read_text("utf-8")


def mib(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(m|M|mb)", text).groups()  # type: ignore[union-attr]
    assert unit
    return int(number)


def test_the_limits_of_memory_leave_room_and_are_the_same_everywhere() -> None:
    services = compose_file(ENV)["services"]
    units = {
        "gateway": SYSTEMD / "dure-gateway.service",
        "worker": SYSTEMD / "dure-worker@.service",
        "flower": SYSTEMD / "dure-flower.service",
        "valkey": DROP_IN,
    }
    limits = {name: mib(read_unit(path)["MemoryMax"][0]) for name, path in units.items()}
    assert limits == {name: mib(service["mem_limit"]) for name, service in services.items()}
    shipped = WorkerSettings.read(unit_program(units["worker"]).environ)
    for worker in (WorkerSettings.read({}), shipped):
        assert worker.memory_mib < limits["worker"]
    configured = re.search(r"(?m)^maxmemory (\S+)$", (DEPLOY / "redis" / "dure.conf").read_text("utf-8"))
    assert configured is not None
    assert mib(configured[1]) < limits["valkey"]


def test_a_worker_has_more_time_to_stop_than_its_answers_have() -> None:
    grace_s = WorkerSettings.read({}).grace_s
    unit = SYSTEMD / "dure-worker@.service"
    assert WorkerSettings.read(unit_program(unit).environ).grace_s == grace_s
    assert int(read_unit(unit)["TimeoutStopSec"][0]) > grace_s
    assert int(compose_file(ENV)["services"]["worker"]["stop_grace_period"].removesuffix("s")) > grace_s


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[GuardedValkey]:
    server = GuardedValkey(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


def test_the_commands_of_the_units_answer_a_question_reload_and_end_in_order(
    guarded: GuardedValkey, tmp_path: Path
) -> None:
    with Cluster(tmp_path, guarded.url) as cluster:
        programs = {program.name: program for program in map(unit_program, UNITS)}
        assert set(programs) == {"dure-flower", "dure-gateway", "dure-worker@"}
        processes = {name: cluster.start(program) for name, program in programs.items()}
        require_service(cluster)
        reload(programs["dure-worker@"], processes["dure-worker@"], guarded)
        assert "다시" in cluster.ask("다시 있나요?")
        cluster.require_alive()
        assert cluster.stop() == {"dure-gateway": BY_SIGTERM, "dure-worker@": 0, "dure-flower": 0}
        assert guarded.refusals() == []


def require_service(cluster: Cluster) -> None:
    """Gateway, worker and Flower do what they are there for."""
    cluster.wait_until("api", "/readyz")
    cluster.wait_until("flower", "/healthcheck")
    assert "두레" in cluster.ask("두레가 뭐예요?")
    assert cluster.get("web", "/").is_success
    assert cluster.get("flower", "/workers").status_code == 401


def reload(worker: Program, process: "subprocess.Popen[bytes]", server: GuardedValkey) -> None:
    """ExecReload=, as systemd calls it."""
    with server.client() as client:

        def pid() -> int:
            found = WorkerRegistry(client).live()
            return found[0].pid if found else 0

        before = wait_for(pid, "the worker")
        subprocess.run([word.replace("$MAINPID", str(process.pid)) for word in worker.reload], check=True)
        wait_for(lambda: pid() not in {0, before}, "the worker of after the reload")


def test_the_commands_of_the_compose_file_answer_a_question_and_end_in_order(tmp_path: Path) -> None:
    valkey = compose_program("valkey", ENV)
    with Cluster(tmp_path, "") as cluster:
        port = cluster.ports["redis"]
        cluster.redis_url = (
            compose_program("gateway", ENV).environ["DURE_REDIS_URL"].replace("valkey:6379", f"127.0.0.1:{port}")
        )
        cluster.start(valkey_here(valkey, tmp_path, port))
        for name in ("gateway", "worker", "flower"):
            cluster.start(compose_program(name, ENV))
        require_service(cluster)
        for name in ("gateway", "flower"):
            assert is_healthy(name, cluster), name
        cluster.require_alive()
        assert cluster.stop() == {"flower": 0, "worker": 0, "gateway": BY_SIGTERM, "valkey": 0}
    assert (tmp_path / "data" / "appendonlydir").is_dir()
    assert PASSWORD not in (tmp_path / "users.acl").read_text("utf-8")


def valkey_here(valkey: Program, folder: Path, port: int) -> Program:
    """Its shell script on this machine: the server is found on the PATH, as in the image."""
    (folder / "data").mkdir()
    (folder / "valkey-server").symlink_to(embedded_redis.find_server())
    *shell, script = valkey.command
    for old, new in {
        "/etc/dure/": f"{DEPLOY / 'redis'}/",
        "/tmp/": f"{folder}/",  # noqa: S108
        "--dir /data": f"--dir {folder / 'data'}",
        "--bind '*'": f"--bind 127.0.0.1 --port {port}",
    }.items():
        assert old in script
        script = script.replace(old, new)
    return Program(valkey.name, [*shell, script], valkey.environ)


def is_healthy(name: str, cluster: Cluster) -> bool:
    kind, *command = compose_file(ENV)["services"][name]["healthcheck"]["test"]
    assert kind == "CMD"
    ports = {"8000": str(cluster.ports["api"]), "5555": str(cluster.ports["flower"])}
    here = [re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda port: ports[port[0]], word) for word in command]
    return subprocess.run([sys.executable, *here[1:]], timeout=DEADLINE_S, check=False).returncode == 0


def test_a_copy_of_the_append_only_file_brings_the_jobs_back(guarded: GuardedValkey, tmp_path: Path) -> None:
    """Backup and restore, as the runbook has it: of a stopped server, into an empty one."""
    with guarded.client() as client:
        JobStore(client).submit(new_job("kept"), max_queued=10)
    guarded.stop()
    restored = GuardedValkey(tmp_path / "restored")
    shutil.copytree(tmp_path / "redis" / "appendonlydir", tmp_path / "restored" / "appendonlydir")
    restored.start()
    try:
        with restored.client() as client:
            assert JobStore(client).queued_longer_than(0) == ["kept"]
    finally:
        restored.stop()


def test_the_image_is_built_from_what_the_package_needs() -> None:
    """The build itself needs Docker; this much can be seen without: what it asks for exists, and is let in."""
    root = DEPLOY.parent
    ignored = (DEPLOY / "compose" / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert all((root / name).exists() for name in kept)
    described = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    project, wheel = described["project"], described["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {project["readme"], *project["license-files"], *(path.split("/")[0] for path in wheel["packages"])}
    assert needed <= kept
    extras = re.search(r"/src\[([\w,]+)\]", (DEPLOY / "compose" / "Dockerfile").read_text("utf-8"))
    assert extras is not None
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])


def test_what_the_runbook_names_exists() -> None:
    """Files of deploy/, parts of itself, and variables."""
    text = (DEPLOY / "README.md").read_text("utf-8")
    for path in re.findall(r"deploy/((?:compose|redis|systemd)/[^\s`]+)", text):
        assert any(DEPLOY.glob(path)), path
    titles = re.findall(r"(?m)^## (.*)$", text)
    parts = {re.sub(r"[^a-z -]", "", title.lower()).strip().replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= parts
    assert set(re.findall(r"\bDURE_[A-Z_]*[A-Z]\b", text)) <= known_variables() | set(ENV)


def known_variables() -> set[str]:
    return {one.model_config["env_prefix"] + name.upper() for one in SETTINGS for name in one.model_fields}
