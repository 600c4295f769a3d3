"""What every engine promises. One contract test runs over all of them."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from dure.errors import BadRequest
from dure.job import Message, Sampling, Usage

FinishReason = Literal["", "stop", "length", "cancelled"]


@dataclass(frozen=True)
class GenerateRequest:
    """One answer to compute.

    id           names the request for `cancel`
    messages     a conversation that ends with the user's question; roles system, user, assistant
    prefix       text the answer begins with, not generated again and not returned
    max_tokens   upper bound of generated tokens, 1 or more
    stop         texts that end the answer; they are not part of it
    overflow     what happens when prompt and answer outgrow the slot: `refuse` ends the answer there, and refuses a
                 longer prompt; `window` goes on, and what lies behind the system's message is forgotten, oldest first
    """

    id: str
    messages: list[Message]
    max_tokens: int
    prefix: str = ""
    stop: list[str] = field(default_factory=list)
    sampling: Sampling = Sampling()
    overflow: Literal["refuse", "window"] = "refuse"


@dataclass(frozen=True)
class Token:
    """A piece of the answer: whole characters only, possibly none.

    A piece without text says that the prompt advances. The last one carries finish_reason and usage.
    """

    text: str
    finish_reason: FinishReason = ""
    usage: Usage = Usage()


@dataclass(frozen=True)
class EngineInfo:
    name: str
    model: str
    num_slots: int
    context: int  # tokens per slot


class Engine(Protocol):
    """Thread-safe: as many `generate` calls run at once as there are slots; further ones wait."""

    @property
    def info(self) -> EngineInfo: ...

    def count_tokens(self, messages: list[Message]) -> int:
        """Tokens of these messages as a prompt, chat template included."""
        ...

    def generate(self, request: GenerateRequest) -> Generator[Token]:
        """Yield the answer.

        Raises ContextOverflow where prompt and one token exceed the context, BadRequest for values the engine cannot
        take, EngineError when it breaks. Closing the iterator early stops the generation.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """End that request within 0.5 s with finish_reason "cancelled". Unknown ids are ignored."""
        ...

    def close(self) -> None: ...


_DEFAULTS = Sampling(temperature=0.7, top_p=0.8, top_k=20, min_p=0.0, repetition_penalty=1.05)  # Qwen2.5's own advice


def chosen(sampling: Sampling, name: str) -> float:
    """What the request says of `name`, else what suits the models that are served."""
    value = getattr(sampling, name)
    found: float = getattr(_DEFAULTS, name) if value is None else value
    return found


def check_request(request: GenerateRequest, *, can_slide: bool = False) -> None:
    """Raises BadRequest, naming value and remedy, for what no engine can take, or this one cannot (can_slide)."""
    if request.overflow == "window" and not can_slide:
        raise BadRequest("overflow is window, which the ark engine alone can do: ask for refuse")
    if request.max_tokens < 1:
        raise BadRequest(f"max_tokens is {request.max_tokens}: ask for 1 or more")
    if not request.messages or request.messages[-1].role != "user":
        raise BadRequest("the last message must be the user's: put the question last")
    for name, low, high in (("temperature", 0, 5), ("top_p", 0, 1), ("min_p", 0, 1), ("repetition_penalty", 0.1, 3)):
        value = getattr(request.sampling, name)
        if value is not None and not low <= value <= high:
            raise BadRequest(f"{name} is {value}: choose a value from {low} to {high}")
