"""The reference engine: Hugging Face transformers' own models and `generate`, for any architecture that it knows."""

import logging
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from dure.errors import ContextOverflow, EngineError
from dure.job import Message
from dure_worker.engines.base import EngineInfo, GenerateRequest, Token, check_request
from dure_worker.engines.hf.answer import Answer
from dure_worker.engines.hf.chat_text import ChatText
from dure_worker.engines.hf.compute import Compute
from dure_worker.engines.hf.loading import Weights, load

log = logging.getLogger(__name__)


class TransformersEngine:
    """Serves a Hugging Face folder or a GGUF file. Right before fast: each slot generates by itself, in turns.

    num_threads   compute threads, at most the cores of this box
    weights       bf16 or float32 as transformers computes them; int8 or nf4 by bitsandbytes

    A model without a chat template gets hf/chat_text.py's FALLBACK_TEMPLATE.
    Raises ModelCorrupt, ModelUnsupported, EngineError.
    """

    def __init__(
        self,
        path: Path,
        model: str,
        *,
        num_slots: int = 4,
        context: int = 2048,
        num_threads: int = 2,
        weights: Weights = "bf16",
    ) -> None:
        self.info = EngineInfo("transformers", model, num_slots, context)
        torch.set_num_threads(num_threads)
        loaded = load(path, weights)
        _require_positions(loaded.model.config, context)
        self._text = ChatText(loaded.tokenizer, loaded.ends, loaded.model.get_input_embeddings().weight.shape[0])
        self._compute = Compute(loaded.model)
        self._slots = ThreadPoolExecutor(num_slots, "slot")
        self._answers: dict[str, Answer] = {}

    def count_tokens(self, messages: list[Message]) -> int:
        return len(self._text.prompt(messages))

    def generate(self, request: GenerateRequest) -> Generator[Token]:
        check_request(request, len(self._text.vocabulary.pieces))
        ids = self._text.prompt(request.messages, request.prefix)
        limit = self.info.context - 1
        if len(ids) > limit:
            raise ContextOverflow(len(ids), limit)
        answer = Answer(request, ids, self._text, self.info.context)
        self._answers[request.id] = answer
        try:
            self._submit(answer)
            yield from answer.tokens()
        finally:
            answer.cancelled.set()
            self._answers.pop(request.id, None)

    def cancel(self, request_id: str) -> None:
        if answer := self._answers.get(request_id):
            answer.cancel()

    def close(self) -> None:
        for answer in list(self._answers.values()):
            answer.cancel()
        self._slots.shutdown(cancel_futures=True)
        self._compute.close()

    def _submit(self, answer: Answer) -> None:
        try:
            self._slots.submit(self._run, answer)
        except RuntimeError:
            raise EngineError("the engine is closed") from None

    def _run(self, answer: Answer) -> None:
        try:
            self._compute.answer(answer)
        except EngineError as error:
            answer.fail(error)
        except Exception as error:
            log.exception("an answer failed")
            answer.fail(EngineError(f"the transformers engine failed: {type(error).__name__}: {error}"))


def _require_positions(config: object, context: int) -> None:
    """Beyond its positions a model computes nonsense, or nothing."""
    limit = getattr(config, "max_position_embeddings", None)
    if isinstance(limit, int) and context > limit:
        raise EngineError(f"this model has {limit} positions: serve it with DURE_WORKER_CONTEXT={limit} or less")
