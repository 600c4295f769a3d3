"""A llama.cpp server that somebody built, as an engine: a child process, asked through its OpenAI endpoint.

It runs as `llama-server` does for who only names the model and the machine: threads, slots and their context are given,
everything else is its own default.
"""

import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import httpx

from benchmarks.village import free_ports
from dure.errors import EngineError
from dure.job import Message, Usage
from dure_worker.engines.base import EngineInfo, FinishReason, GenerateRequest, Token, chosen

_READY_WITHIN_S = 300
_SILENT_S = 900  # a long prompt on a slow machine; nothing comes meanwhile
_NUM_SAID = 5  # lines of its log that an error shows
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")


class NativeServer:
    """pid is the server's: its memory is what counts."""

    def __init__(self, binary: Path, path: Path, model: str, *, num_slots: int, context: int, num_threads: int) -> None:
        self.info = EngineInfo("llama-server", model, num_slots, context)
        (port,) = free_ports(1)
        self._log = tempfile.TemporaryFile(prefix="dure-llama-server-")  # noqa: SIM115 - closed with the server
        sizes = ["-t", str(num_threads), "-c", str(num_slots * context), "-np", str(num_slots)]
        command = [str(binary), "-m", str(path), *sizes, "--port", str(port), "--host", "127.0.0.1", "--no-webui"]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        self.pid = self._process.pid
        # The server closes a connection that was idle for a while, just when it is used again.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_SILENT_S, limits=limits)
        self._cancelled: dict[str, threading.Event] = {}
        try:
            self._wait()
        except EngineError:
            self.close()
            raise

    def count_tokens(self, messages: list[Message]) -> int:
        prompt = self._ask("/apply-template", {"messages": _plain(messages)})["prompt"]
        body = {"content": prompt, "add_special": True, "parse_special": True}
        return len(self._ask("/tokenize", body)["tokens"])

    def generate(self, request: GenerateRequest) -> Generator[Token]:
        cancelled = self._cancelled.setdefault(request.id, threading.Event())
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=_payload(request)) as answer:
                if answer.is_error:
                    raise EngineError(f"llama-server: {answer.read().decode('utf-8', 'replace')}")
                yield from _tokens(answer.iter_lines(), cancelled)
        finally:
            del self._cancelled[request.id]

    def cancel(self, request_id: str) -> None:
        if event := self._cancelled.get(request_id):
            event.set()

    def close(self) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def _wait(self) -> None:
        give_up = time.monotonic() + _READY_WITHIN_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > give_up:
                self._log.seek(0)
                said = self._log.read().decode("utf-8", "replace").splitlines()[-_NUM_SAID:]
                raise EngineError(f"llama-server does not start: {' / '.join(said)}")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        try:
            return self._client.get("/health").is_success
        except httpx.TransportError:
            return False

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._client.post(path, json=body).raise_for_status().json()
        return found


def _payload(request: GenerateRequest) -> dict[str, Any]:
    """The same wishes as dure_worker/engines/llama.py has."""
    return {
        "messages": _plain(request.messages),
        "max_tokens": request.max_tokens,
        "stop": request.stop,
        **{name: chosen(request.sampling, name) for name in _SAMPLING},
        "repeat_penalty": chosen(request.sampling, "repetition_penalty"),
        "seed": -1 if request.sampling.seed is None else request.sampling.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,  # so that a long prompt can be cut off
    }


def _plain(messages: list[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _tokens(lines: Iterator[str], cancelled: threading.Event) -> Iterator[Token]:
    """Server-sent events into tokens; the last one carries reason and usage. Leaving ends the answer there too."""
    reason: FinishReason = ""
    usage = Usage()
    for line in lines:
        if cancelled.is_set():
            yield Token("", "cancelled")
            return
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            raise EngineError(f"llama-server: {chunk['error']}")
        if counted := chunk.get("usage"):
            usage = Usage(counted["prompt_tokens"], counted["completion_tokens"])
        for choice in chunk["choices"]:
            reason = choice["finish_reason"] or reason
            yield Token(choice["delta"].get("content") or "")
    if not reason:
        raise EngineError("llama-server ended an answer without saying why")
    yield Token("", reason, usage)
