"""The fast engine for x86 with VNNI: torch, and the weight-only kernels of auto-round-lib."""

from collections.abc import Generator
from pathlib import Path

import torch

from dure import gguf
from dure.errors import ContextOverflow, EngineError
from dure.job import Message
from dure_worker.engines.ark.answer import Answer
from dure_worker.engines.ark.chat_tokenizer import ChatTokenizer
from dure_worker.engines.ark.loading import load
from dure_worker.engines.ark.packing import AS_IN_THE_FILE, Recipe
from dure_worker.engines.ark.sampler import Sampler
from dure_worker.engines.ark.scheduler import Scheduler
from dure_worker.engines.ark.vocabulary import Vocabulary
from dure_worker.engines.base import EngineInfo, GenerateRequest, Token, check_request


class ArkEngine:
    """Serves one GGUF file. num_threads: compute threads, at most the cores of this box."""

    def __init__(
        self,
        path: Path,
        model: str,
        *,
        num_slots: int = 4,
        context: int = 2048,
        num_threads: int = 2,
        recipe: Recipe = AS_IN_THE_FILE,
    ) -> None:
        self.info = EngineInfo("ark", model, num_slots, context)
        torch.set_num_threads(num_threads)
        source = gguf.read(path)
        self._tokenizer = ChatTokenizer(source)
        self._vocabulary = Vocabulary(self._tokenizer.pieces, self._tokenizer.ends)
        self._scheduler = Scheduler(load(source, recipe), num_slots, context)
        self._answers: dict[str, Answer] = {}

    def count_tokens(self, messages: list[Message]) -> int:
        return len(self._tokenizer.prompt(messages))

    def generate(self, request: GenerateRequest) -> Generator[Token]:
        check_request(request, len(self._vocabulary.pieces))
        ids = self._tokenizer.prompt(request.messages, request.prefix)
        limit = self.info.context - 1
        if len(ids) > limit:
            raise ContextOverflow(len(ids), limit)
        sampler = Sampler(request.sampling, self._vocabulary)
        answer = Answer(request, ids, sampler, self._tokenizer, self.info.context)
        self._answers[request.id] = answer
        try:
            self._scheduler.submit(answer)
            is_ended = False
            while not is_ended:
                piece = answer.pieces.get()
                if isinstance(piece, EngineError):
                    raise piece
                yield piece
                is_ended = bool(piece.finish_reason)
        finally:
            answer.cancelled.set()
            self._answers.pop(request.id, None)

    def cancel(self, request_id: str) -> None:
        if answer := self._answers.get(request_id):
            answer.cancelled.set()

    def close(self) -> None:
        self._scheduler.close()
