"""Styles and personalities of an operator's own: from their files to the worker, the list and the command."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dure import keys
from dure.job import JobPayload, Message
from dure.persona import PERSONALITIES, STYLES
from dure_worker.engines.scripted import ScriptedEngine
from support import DEADLINE_S, DURE, Stack, free_port, sse

CLERK = """
title = {ko = "구청 민원 안내", en = "District office"}
introduction = "당신은 구청 안내원입니다."
system = "창구를 알려 줍니다."
style = "casual"
edits = ["punctuation"]

[sampling]
temperature = 0.3

[[examples]]
user = "등본은요?"
assistant = "3번 창구예요."
"""
QUESTION = "인감은 어디서 떼나요?"


def write_clerk(folder: Path, text: str = CLERK) -> Path:
    path = folder / "personalities" / "clerk.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text, "utf-8")
    return path


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("home")
    write_clerk(home / "personas")
    with Stack(home) as stack:
        stack.start_worker()
        stack.wait_until_ready()
        yield stack


def payload_of(stack: Stack, answer: dict[str, Any]) -> JobPayload:
    return JobPayload.from_json(str(stack.store.redis.hget(keys.job(answer["job_id"]), "payload")))


def test_an_own_personality_answers_with_its_text_examples_style_and_sampling(stack: Stack) -> None:
    body = {"message": QUESTION, "personality": "clerk", "max_tokens": 20}
    answer = stack.http.post("/api/chat", json=body).json()
    assert QUESTION[:5] in answer["reply"]
    assert answer["style"] == "casual"
    payload = payload_of(stack, answer)
    assert (payload.personality, payload.sampling.temperature, payload.edits) == ("clerk", 0.3, ["punctuation"])
    prompt = [
        Message("system", "당신은 구청 안내원입니다. ‘-아요/어요’체로 친근하게 답해요. 창구를 알려 줍니다."),
        Message("user", "등본은요?"),
        Message("assistant", "3번 창구예요."),
        Message("user", QUESTION),
    ]
    assert answer["usage"]["prompt_tokens"] == ScriptedEngine().count_tokens(prompt)


def test_a_stream_and_a_submitted_job_speak_the_same(stack: Stack) -> None:
    body = {"message": QUESTION, "personality": "clerk", "style": "polite", "max_tokens": 5, "temperature": 0.0}
    with stack.http.stream("POST", "/api/chat", json=body | {"stream": True}) as response:
        final = sse(response.iter_lines())[-1][1]
    submitted = stack.http.post("/v1/jobs", json=body).json()
    assert final["style"] == "polite"
    assert payload_of(stack, final) == payload_of(stack, submitted)
    assert payload_of(stack, final).sampling.temperature == 0.0


def test_only_what_older_workers_do_not_know_is_kept_from_them(stack: Stack) -> None:
    for names, schema in (({}, 1), ({"style": "casual", "personality": "warm"}, 1), ({"style": "intimate"}, 4)):
        answer = stack.http.post("/v1/jobs", json={"message": QUESTION, "max_tokens": 5, **names}).json()
        assert stack.store.redis.hget(keys.job(answer["job_id"]), "schema") == str(schema)
        assert (payload_of(stack, answer).persona is None) is (schema == 1)


def test_an_openai_client_may_name_it_and_then_its_own_system_message_comes_behind(stack: Stack) -> None:
    messages = [{"role": "system", "content": "짧게."}, {"role": "user", "content": QUESTION}]
    body = {"model": "dure", "messages": messages, "max_tokens": 5}
    named = stack.http.post("/v1/chat/completions", json=body | {"personality": "clerk"}).json()
    alone = stack.http.post("/v1/chat/completions", json=body).json()
    payload = payload_of(stack, {"job_id": named["id"].removeprefix("chatcmpl-")})
    assert payload.style == "casual"
    assert payload.persona is not None
    count = ScriptedEngine().count_tokens
    assert alone["usage"]["prompt_tokens"] == count([Message("system", "짧게."), Message("user", QUESTION)])
    system = Message("system", f"{payload.persona.system}\n\n짧게.")
    prompt = [system, *payload.persona.examples, Message("user", QUESTION)]
    assert named["usage"]["prompt_tokens"] == count(prompt)


def test_the_same_key_without_a_style_is_the_same_question(stack: Stack) -> None:
    headers = {"Idempotency-Key": "persona-1"}
    body = {"message": QUESTION, "personality": "clerk", "max_tokens": 5}
    first, again = (stack.http.post("/v1/jobs", json=body, headers=headers).json() for _ in range(2))
    assert first["job_id"] == again["job_id"]


@pytest.mark.parametrize("path", ["/api/chat", "/v1/jobs", "/v1/chat/completions"])
@pytest.mark.parametrize(
    ("language", "asked", "remedy"),
    [
        ("ko", "혹시 ‘clerk’인가요?", "다음 가운데 하나를 보내 주세요: "),
        ("en", "Did you mean 'clerk'?", "Send one of: "),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(
    stack: Stack, path: str, language: str, asked: str, remedy: str
) -> None:
    question = {"message": QUESTION} if path != "/v1/chat/completions" else {
        "model": "dure", "messages": [{"role": "user", "content": QUESTION}]
    }  # fmt: skip
    headers = {"Accept-Language": language}
    answer = stack.http.post(path, json=question | {"personality": "clrek"}, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (422, "not_a_choice", "personality")
    assert error["remedy"] == f"{asked} {remedy}{', '.join([*PERSONALITIES, 'clerk'])}"
    answer = stack.http.post(path, json=question | {"style": "clerk"}, headers=headers)
    assert answer.json()["error"]["field"] == "style"
    assert answer.json()["error"]["remedy"] == f"{remedy}{', '.join(STYLES)}"


def test_clients_can_ask_for_the_names_and_titles(stack: Stack) -> None:
    listed = stack.http.get("/api/personas").json()
    assert [one["name"] for one in listed["styles"]] == list(STYLES)
    assert [one["name"] for one in listed["personalities"]] == [*PERSONALITIES, "clerk"]
    assert listed["personalities"][-1]["title"] == {"ko": "구청 민원 안내", "en": "District office"}


def environment(home: Path, **environ: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DURE_")}
    return clean | {"DURE_HOME": str(home), "COLUMNS": "200", "PYTHONUTF8": "1", **environ}


def run(*command: str, environ: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=DEADLINE_S,
        check=False,
    )  # fmt: skip


def start_gateway(home: Path, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Without a Redis: it is not asked before the files are read."""
    ports = {"DURE_GATEWAY_PORT": str(free_port()), "DURE_GATEWAY_WEB_PORT": str(free_port())}
    redis = {"DURE_REDIS_URL": "redis://127.0.0.1:1/0"}
    return run(sys.executable, "-m", "dure_gateway", environ=environment(home, **ports, **redis, **environ))


def test_a_gateway_with_a_file_that_cannot_be_used_does_not_start_and_says_why(tmp_path: Path) -> None:
    path = write_clerk(tmp_path / "personas", CLERK.replace("system", "sytem"))
    done = start_gateway(tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"dure gateway: {path}: system is missing: add it; sytem is not known: use title, ")
    assert done.stderr.count("\n") == 1


def test_a_gateway_whose_named_folder_is_missing_does_not_start(tmp_path: Path) -> None:
    done = start_gateway(tmp_path, DURE_GATEWAY_PERSONAS=str(tmp_path / "none"))
    assert done.returncode == 1
    assert f"dure gateway: {tmp_path / 'none'} cannot be read" in done.stderr


def test_dure_up_says_it_before_it_starts_anything(tmp_path: Path) -> None:
    path = write_clerk(tmp_path / "own", "title = 5")
    ports = [f"--{name}={free_port()}" for name in ("port", "web-port", "flower-port")]
    command = [DURE, "up", "--model", "scripted", "--personas", str(tmp_path / "own"), *ports]
    done = run(*command, environ=environment(tmp_path / "home"))
    assert done.returncode == 1
    assert f"dure: {path}: title: " in done.stderr
    assert not (tmp_path / "home" / "redis").exists()


def test_the_command_lists_what_a_gateway_would_offer(stack: Stack) -> None:
    environ = environment(stack.folder)
    done = run(DURE, "personas", environ=environ)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = [line for line in done.stdout.splitlines() if " clerk " in line]
    assert "구청 민원 안내 / District office" in line
    assert str(stack.folder / "personas" / "personalities" / "clerk.toml") in line
    assert done.stdout.index("intimate") < done.stdout.index("expert") < done.stdout.index("helpful")
    listed = json.loads(run(DURE, "personas", "--json", environ=environ).stdout)
    assert listed == httpx.get(f"{stack.url}/api/personas").json()


def test_the_command_refuses_a_folder_with_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    path = write_clerk(tmp_path / "own", CLERK + "[sampling]")
    done = run(DURE, "personas", "--folder", str(tmp_path / "own"), environ=environment(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"dure: {path}: ")
    assert done.stderr.count("\n") == 1
