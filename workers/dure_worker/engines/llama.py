"""The portable engine: llama.cpp's server inside this process, through xllamacpp."""

import queue
import secrets
import threading
from array import array
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
import xllamacpp

from dure import gguf
from dure.errors import BadRequest, ContextOverflow, EngineError
from dure.job import Message, Sampling, Usage
from dure_worker.engines.base import (
    BANNED,
    NOTHING_LEFT,
    EngineInfo,
    FinishReason,
    GenerateRequest,
    Token,
    check_request,
    chosen,
)
from dure_worker.engines.control_tokens import ControlTokens, control_tokens
from dure_worker.engines.pieces import pieces
from dure_worker.engines.priority import lower_priority
from dure_worker.engines.script_guard import ScriptGuard

# Prompt tokens computed in one go. The runtime looks at cancellation and at the other slots only in between, and its
# work buffers grow with it: 512 gives some 10 % more prompt speed, but stalls everything else for 8 s on a 2-core box.
_BATCH = 64
_NUM_GUARDS = 8  # lists of ids, up to 1 MB each
_SAME_NAMES = (
    "temperature", "top_p", "top_k", "min_p", "dry_multiplier", "dry_base", "dry_allowed_length",
)  # fmt: skip


class LlamaEngine:
    """Serves one GGUF file.

    num_threads   compute threads, at most the cores of this box: more make it many times slower
    cache_mib     memory for prompts that lost their slot
    kv_bits       of a number of the KV cache: 16, or 8 for half the memory
    adapter       a LoRA adapter that is added to the weights
    is_mapped     share the file with the page cache instead of copying it. Not both: the fast layout of the copy on
                  top of a mapped file nearly doubles the resident memory
    """

    def __init__(
        self,
        path: Path,
        model: str,
        *,
        num_slots: int = 4,
        context: int = 2048,
        num_threads: int = 2,
        cache_mib: int = 64,
        is_mapped: bool = False,
        kv_bits: int = 16,
        adapter: Path | None = None,
    ) -> None:
        self.info = EngineInfo("llama", model, num_slots, context)
        key = secrets.token_hex(16)
        params = _params(path, num_slots, context, num_threads, cache_mib, is_mapped)
        params.api_keys = [key]
        if adapter is not None:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter))]
        if kv_bits == 8:  # noqa: PLR2004
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_Q8_0
        try:
            self._server = _as_batch_work(lambda: xllamacpp.Server(params))
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"{path} cannot be loaded: {error}. Check it with `dure model fetch {model}`") from error
        source = gguf.read(path)
        self._control = ControlTokens(control_tokens(source))
        self._path = path
        self._num_tokens = len(source.get("tokenizer.ggml.tokens"))
        self._forbidden = lru_cache(maxsize=_NUM_GUARDS)(self._find_forbidden)
        # The runtime's helper endpoints (tokenize, template) exist over its loopback listener only.
        self._helper = httpx.Client(
            base_url=self._server.listening_address, headers={"Authorization": f"Bearer {key}"}, timeout=30
        )
        self._cancelled: dict[str, threading.Event] = {}

    def count_tokens(self, messages: list[Message]) -> int:
        prompt = self._ask("/apply-template", {"messages": self._plain(messages)})["prompt"]
        body = {"content": prompt, "add_special": True, "parse_special": True}
        return len(self._ask("/tokenize", body)["tokens"])

    def generate(self, request: GenerateRequest) -> Generator[Token]:
        check_request(request, self._num_tokens)
        payload = self._payload(request)
        cancelled = self._cancelled.setdefault(request.id, threading.Event())
        chunks: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
        # The runtime calls back and blocks until the end; a thread of its own turns that into an iterator.
        work = (payload, chunks, cancelled)
        thread = threading.Thread(target=self._run, args=work, name=f"llama {request.id}", daemon=True)
        thread.start()
        try:
            yield from _tokens(chunks, cancelled)
        finally:
            cancelled.set()
            self._cancelled.pop(request.id, None)
            thread.join()

    def _run(self, payload: dict[str, Any], chunks: "queue.SimpleQueue[Any]", cancelled: threading.Event) -> None:
        def on_chunk(chunk: dict[str, Any]) -> bool:
            chunks.put(chunk)
            return cancelled.is_set()  # True stops the generation at once

        try:
            if not cancelled.is_set():
                self._server.handle_chat_completions(payload, on_chunk)
        except Exception as error:  # noqa: BLE001 - handed to the iterator's side, which raises it
            chunks.put(error)
        finally:
            chunks.put(None)

    def cancel(self, request_id: str) -> None:
        if event := self._cancelled.get(request_id):
            event.set()

    def close(self) -> None:
        for event in list(self._cancelled.values()):
            event.set()
        self._helper.close()
        del self._server

    def _payload(self, request: GenerateRequest) -> dict[str, Any]:
        sampling = {name: chosen(request.sampling, name) for name in _SAME_NAMES}
        messages = self._plain(request.messages)
        if request.prefix:
            messages.append({"role": "assistant", "content": self._control.neutral(request.prefix)})
        return {
            "messages": messages,
            "max_tokens": request.max_tokens,
            "stop": request.stop,
            **sampling,
            "repeat_penalty": chosen(request.sampling, "repetition_penalty"),
            "logit_bias": self._bias(request.sampling),
            "seed": -1 if request.sampling.seed is None else request.sampling.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,
        }

    def _bias(self, sampling: Sampling) -> list[tuple[int, float | bool]]:
        """False is the runtime's word for never."""
        bias = (sampling.logit_bias or {}).items()
        found = [(number, amount if amount > BANNED else False) for number, amount in bias]
        if sampling.scripts:
            found += [(number, False) for number in self._forbidden(tuple(sorted(set(sampling.scripts))))]
        if len({number for number, amount in found if amount is False}) == self._num_tokens:
            raise BadRequest(NOTHING_LEFT)
        return found

    def _find_forbidden(self, scripts: tuple[str, ...]) -> "array[int]":
        """The runtime takes one list for the whole answer: a character that is spelt byte by byte is judged by its
        first token alone. That keeps out Han and Cyrillic, but not all of Kana, which shares a first byte with
        Hangul's letters.
        """
        source = gguf.read(self._path)
        end = source.get("tokenizer.ggml.eos_token_id")
        anew, _ = ScriptGuard(pieces(source), scripts, [] if end is None else [end]).forbidden()
        return anew

    def _plain(self, messages: list[Message]) -> list[dict[str, str]]:
        return [{"role": message.role, "content": self._control.neutral(message.content)} for message in messages]

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = self._helper.post(path, json=body)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise EngineError(f"the llama runtime does not answer {path}: {error}") from error
        result: dict[str, Any] = answer.json()
        return result


def _as_batch_work(make: Callable[[], Any]) -> Any:
    """Call `make` in a thread whose own threads, the computing ones, give way to everything else on this box."""

    def lowered() -> Any:
        lower_priority()
        return make()

    with ThreadPoolExecutor(1, "engine loader") as pool:
        return pool.submit(lowered).result()


def _params(path: Path, num_slots: int, context: int, num_threads: int, cache_mib: int, is_mapped: bool) -> Any:
    modes = xllamacpp.llama_load_mode
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = num_slots
    params.n_ctx = context * num_slots
    params.n_batch = params.n_ubatch = _BATCH
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = num_threads
    params.cache_ram_mib = cache_mib
    # Windowed layers forget what lies before the window; a copy from the prompt's end lets the next turn go on from
    # there, also when the answer was edited. One is enough for that (measured); the runtime would keep 32 a slot.
    params.n_ctx_checkpoints = 1
    params.load_mode = modes.LLAMA_LOAD_MODE_MMAP if is_mapped else modes.LLAMA_LOAD_MODE_NONE
    params.no_extra_bufts = is_mapped
    params.fit_params = False  # our own plan decides; the runtime must not shrink the context silently
    params.endpoint_slots = False
    params.ui = False
    params.verbosity = -1
    return params


def _tokens(chunks: "queue.SimpleQueue[Any]", cancelled: threading.Event) -> Iterator[Token]:
    """Translate the runtime's chunks; the last token carries the reason and the usage."""
    reason: FinishReason = ""
    usage = Usage()
    num_pieces = 0
    while (chunk := chunks.get()) is not None:
        if isinstance(chunk, BaseException):
            raise EngineError(f"the llama runtime failed: {chunk}") from chunk
        if "error" in chunk:
            raise _error(chunk["error"])
        if counted := chunk.get("usage"):
            usage = Usage(counted["prompt_tokens"], counted["completion_tokens"])
        for choice in chunk["choices"]:
            reason = choice["finish_reason"] or reason
            text = choice["delta"].get("content") or ""
            num_pieces += bool(text)
            yield Token(text)
    if not reason:
        if not cancelled.is_set():
            raise EngineError("the llama runtime ended an answer without saying why: see the worker's log")
        reason, usage = "cancelled", Usage(0, num_pieces)
    yield Token("", reason, usage)


def _error(error: dict[str, Any]) -> EngineError:
    if error.get("type") == "exceed_context_size_error":
        return ContextOverflow(error["n_prompt_tokens"], error["n_ctx"] - 1)
    if error.get("code") == 400:  # noqa: PLR2004 - HTTP's "bad request"
        return BadRequest(error["message"])
    return EngineError(error["message"])
