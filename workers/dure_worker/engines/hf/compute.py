"""All passes through the model in one thread, in the order in which they were asked for: answers take turns, and no two
of them fight for the cores.
"""

import functools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from dure_worker.engines.hf.answer import Answer
from dure_worker.engines.priority import lower_priority

# Others wait while a chunk of a prompt is computed.
_CHUNK_S = 0.15
_LEAST_CHUNK, _MOST_CHUNK = 16, 256


class Compute:
    """model: of transformers; from now on its passes are computed here, whoever calls it."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._thread = ThreadPoolExecutor(1, "transformers", initializer=lower_priority)
        self._forward = model.forward
        model.forward = self._in_turn(model.forward)
        # A prompt in pieces needs keys and values that grow; models with one state for all take it whole.
        self._has_chunks = model._supports_default_dynamic_cache() and not model._is_stateful
        self._chunk = _LEAST_CHUNK

    def answer(self, answer: Answer) -> None:
        """Read the prompt, then `generate`."""
        cache = DynamicCache(config=self._model.config.get_text_config(decoder=True)) if self._has_chunks else None
        if cache is not None:
            for chunk in self._chunks(answer):
                self._thread.submit(self._read, chunk, cache).result()
                answer.progress()
        if answer.cancelled.is_set():
            answer.end("cancelled")
            return
        ids = torch.tensor([answer.ids])
        self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=answer.most_tokens,
            logits_processor=LogitsProcessorList([_Picked(answer)]),
            stopping_criteria=StoppingCriteriaList([_Taken(answer)]),
            **({} if cache is None else {"cache": cache}),
        )

    def close(self) -> None:
        self._thread.shutdown()

    def _chunks(self, answer: Answer) -> Iterator[list[int]]:
        """Of the prompt, all but its last token: what follows that is what is asked for."""
        start, end = 0, answer.num_prompt - 1
        while start < end and not answer.cancelled.is_set():
            chunk = answer.ids[start : min(end, start + self._chunk)]
            start += len(chunk)
            yield chunk

    def _read(self, chunk: list[int], cache: DynamicCache) -> None:
        began_at = time.monotonic()
        with torch.no_grad():
            self._forward(input_ids=torch.tensor([chunk]), cache=cache, use_cache=True, logits_to_keep=1)
        if len(chunk) >= _LEAST_CHUNK:
            fitting = int(len(chunk) * _CHUNK_S / (time.monotonic() - began_at)) // _LEAST_CHUNK * _LEAST_CHUNK
            self._chunk = max(_LEAST_CHUNK, min(fitting, 2 * self._chunk, _MOST_CHUNK))

    def _in_turn(self, forward: Any) -> Any:
        def compute(*inputs: Any, **named: Any) -> Any:
            with torch.no_grad():
                return forward(*inputs, **named)

        @functools.wraps(forward)  # transformers looks at its parameters
        def wait(*inputs: Any, **named: Any) -> Any:
            return self._thread.submit(compute, *inputs, **named).result()

        return wait


class _Picked(LogitsProcessor):  # type: ignore[misc]
    """Leaves one token to choose from: the one that the request's own dice picked."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        only = torch.full_like(scores, -torch.inf)
        only[0, self._answer.pick(scores[0])] = 0
        return only


class _Taken(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        self._answer.take(int(input_ids[0, -1]))
        return torch.tensor([self._answer.is_ended])
