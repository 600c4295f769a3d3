"""Full disks, folders that cannot be written, rights that are missing: a clear error, and nothing lost."""

import os
import subprocess
from pathlib import Path

import pytest

from support import DEADLINE_S, DURE, Stack, assert_ended_once, free_port, wait_for


def fill(folder: Path) -> Path:
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"0" * 4096)
        except OSError:
            return path


def test_a_redis_whose_disk_is_full_refuses_new_jobs_and_keeps_the_old_ones(small_disk: Path, tmp_path: Path) -> None:
    """As servers with everysec do: MISCONF. Proved: without StoreError in `_insist` FINISH gives up at once."""
    with Stack(tmp_path, redis_folder=small_disk) as stack:
        stack.store.redis.config_set("appendfsync", "everysec")
        worker = stack.start_worker(DURE_WORKER_SCRIPTED_TOKEN_S="0.05", DURE_WORKER_LEASE_S="60")
        job_id = stack.submit(max_tokens=60)
        stack.wait_for_text(job_id)
        ballast = fill(small_disk)

        def refusal() -> str:
            answer = stack.http.post("/v1/jobs", json={"message": "계세요?", "max_tokens": 5})
            return "" if answer.status_code == 202 else answer.text

        said = wait_for(refusal, "a refusal")
        assert "redis_refused" in said
        assert "disk" in said
        wait_for(lambda: "finish waits for Redis" in stack.log("box").read_text("utf-8"), "an answer without a place")
        ballast.unlink()
        stack.wait_for_state(job_id, "done")
        assert_ended_once(stack.store, job_id, "done")
        assert worker.poll() is None
        wait_for(lambda: not refusal(), "new jobs are taken again")


def test_dure_up_says_that_the_disk_is_full(small_disk: Path) -> None:
    fill(small_disk)
    assert "No space left on device" in refused_up(small_disk)


@pytest.mark.parametrize("home", ["/sys/dure", "/dev/null/dure"])
def test_a_state_folder_that_cannot_be_written_is_named_with_the_remedy(home: str) -> None:
    said = refused_up(Path(home))
    assert home in said
    assert "DURE_HOME" in said


def refused_up(home: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DURE_")}
    ports = [f"--port={free_port()}", f"--web-port={free_port()}", f"--flower-port={free_port()}"]
    done = subprocess.run(
        [DURE, "up", "--model", "scripted", *ports],
        env=clean | {"DURE_HOME": str(home), "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("module", ["dure_gateway", "dure_worker"])
def test_a_redis_user_without_scripts_is_refused_at_start_with_the_remedy(own_stack: Stack, module: str) -> None:
    """Proved: without the probe the programs start, and every request fails."""
    own_stack.store.redis.execute_command("ACL", "SETUSER", "weak", "on", ">pw", "~*", "&*", "+@all", "-@scripting")
    address = own_stack.valkey.url.split("@")[1]
    port = str(free_port())
    environ = {"DURE_REDIS_URL": f"redis://weak:pw@{address}", "DURE_GATEWAY_PORT": port}
    process = own_stack.start(module, "refused", **environ, DURE_GATEWAY_WEB_PORT=port)
    assert process.wait(DEADLINE_S) == 1
    assert "deploy/redis/users.acl" in own_stack.log("refused").read_text("utf-8")


def test_rights_taken_away_while_serving_are_said_and_nothing_accepted_is_lost(own_stack: Stack) -> None:
    own_stack.start_worker(DURE_WORKER_SCRIPTED_TOKEN_S="0.05", DURE_WORKER_LEASE_S="60")
    job_id = own_stack.submit(max_tokens=60)
    own_stack.wait_for_text(job_id)
    own_stack.store.redis.execute_command("ACL", "SETUSER", "default", "-@scripting")
    answer = own_stack.http.post("/v1/jobs", json={"message": "계세요?"})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "redis_refused"
    own_stack.store.redis.execute_command("ACL", "SETUSER", "default", "+@all")
    own_stack.wait_for_state(job_id, "done")
    assert_ended_once(own_stack.store, job_id, "done")


@pytest.mark.parametrize("module", ["dure_gateway", "dure_worker"])
def test_a_redis_used_by_an_incompatible_newer_release_is_refused_at_start(own_stack: Stack, module: str) -> None:
    own_stack.store.redis.set("schema:oldest", 99)
    port = str(free_port())
    process = own_stack.start(module, "refused", DURE_GATEWAY_PORT=port, DURE_GATEWAY_WEB_PORT=port)
    assert process.wait(DEADLINE_S) == 1
    assert "update dure on this machine" in own_stack.log("refused").read_text("utf-8")
