"""The fast engine for x86 with VNNI: torch, and the weight-only kernels of auto-round-lib."""

from collections.abc import Generator
from pathlib import Path

from dure import __version__, gguf
from dure.errors import BadRequest, ContextOverflow, EngineError, ModelUnsupported
from dure.gguf import Gguf
from dure.job import Message
from dure_worker.engines.ark import heap, threads
from dure_worker.engines.ark.answer import Answer
from dure_worker.engines.ark.chat_tokenizer import ChatTokenizer
from dure_worker.engines.ark.decoder import Decoder
from dure_worker.engines.ark.draft_model import DraftModel
from dure_worker.engines.ark.guesses import Guesses
from dure_worker.engines.ark.kv_cache import KvCache
from dure_worker.engines.ark.kv_store import KvStore, common
from dure_worker.engines.ark.loading import load, packed
from dure_worker.engines.ark.packing import AS_IN_THE_FILE, Recipe
from dure_worker.engines.ark.sampler import Sampler
from dure_worker.engines.ark.scheduler import Scheduler
from dure_worker.engines.ark.slots import Slots
from dure_worker.engines.ark.vocabulary import Vocabulary
from dure_worker.engines.base import EngineInfo, GenerateRequest, Token, check_request

# Source: StreamingLLM (Xiao et al., 2023), section 3.
_SINKS = 4
_TOKENS = "tokenizer.ggml.tokens"


class ArkEngine:
    """Serves one GGUF file.

    num_threads    compute threads, at most the cores of this box
    kv_bits        of a number of the KV cache: 16, or 8 for half the memory
    kv_folder      where conversations' keys and values go that lose their slot, up to kv_disk_mib; 0: nowhere
    draft          the GGUF file of a smaller model of the same vocabulary, which guesses for this one
    """

    def __init__(
        self,
        path: Path,
        model: str,
        *,
        num_slots: int = 4,
        context: int = 2048,
        num_threads: int = 2,
        recipe: Recipe = AS_IN_THE_FILE,
        kv_bits: int = 16,
        kv_folder: Path | None = None,
        kv_disk_mib: int = 0,
        draft: Path | None = None,
    ) -> None:
        self.info = EngineInfo("ark", model, num_slots, context)
        threads.decide(num_threads)
        source = gguf.read(path)
        self._tokenizer = ChatTokenizer(source)
        self._vocabulary = Vocabulary(self._tokenizer.pieces, self._tokenizer.ends)

        def made() -> tuple[Decoder, KvCache, DraftModel | None]:
            decoder = load(source, recipe)
            model = None if draft is None else DraftModel(_draft(draft, source), num_slots, context)
            return decoder, KvCache(decoder.config, num_slots, context, kv_bits), model

        decoder, cache, model_of_guesses = threads.apart(made)
        heap.keep()
        store = None
        if kv_folder is not None and kv_disk_mib:
            name = packed(path, recipe).stem
            store = KvStore(kv_folder, kv_disk_mib << 20, f"{name} {kv_bits} {__version__}")
        self._slots = Slots(cache, num_slots, store)
        self._scheduler = Scheduler(decoder, cache, self._slots, Guesses(model_of_guesses))
        self._answers: dict[str, Answer] = {}

    def count_tokens(self, messages: list[Message]) -> int:
        return len(self._tokenizer.prompt(messages))

    def generate(self, request: GenerateRequest) -> Generator[Token]:
        check_request(request, len(self._vocabulary.pieces), can_slide=True)
        ids, num_kept = self._prompt(request)
        sampler = Sampler(request.sampling, self._vocabulary)
        answer = Answer(request, ids, sampler, self._tokenizer, self.info.context, num_kept)
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

    def _prompt(self, request: GenerateRequest) -> tuple[list[int], int | None]:
        """Its tokens, and how many of them are never dropped; None: nothing is. Raises ContextOverflow."""
        ids = self._tokenizer.prompt(request.messages, request.prefix)
        limit = self.info.context - 1
        if request.overflow == "refuse":
            if len(ids) > limit:
                raise ContextOverflow(len(ids), limit)
            return ids, None
        num_kept = min(self._num_kept(request.messages, ids), self.info.context // 4)
        if len(ids) > limit:
            # Room for an answer of some length, before it must drop more.
            ids = ids[:num_kept] + ids[len(ids) - (self.info.context * 3 // 4 - num_kept) :]
        return ids, num_kept

    def _num_kept(self, messages: list[Message], ids: list[int]) -> int:
        """The system's message, or else as many tokens as attention needs to rest on."""
        if messages[0].role != "system":
            return _SINKS
        try:
            alone = self._tokenizer.prompt(messages[:1])
        except BadRequest:  # some templates want a question
            return _SINKS
        return max(_SINKS, common(alone, ids))

    def cancel(self, request_id: str) -> None:
        if answer := self._answers.get(request_id):
            answer.cancelled.set()

    def close(self) -> None:
        """Running answers end; conversations go to disk, where that was asked for."""
        self._scheduler.close()
        self._slots.keep_all()


def _draft(path: Path, large: Gguf) -> Decoder:
    """Raises ModelUnsupported where its tokens are others."""
    small = gguf.read(path)
    if small.get(_TOKENS) != large.get(_TOKENS):
        raise ModelUnsupported(
            f"{path} cannot guess for {large.path.name}: their vocabularies differ. Take two models of one family, "
            "trimmed alike"
        )
    return load(small)
