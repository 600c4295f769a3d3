"""What every engine promises. One contract test runs over all of them."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from dure.errors import BadRequest
from dure.job import Message, Overflow, Sampling, Usage
from dure.keys import PRIORITY_NORMAL
from dure.writing import Script

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
    priority     of those that wait for a slot, the lowest number goes first, as in the job queues (`dure.keys`)
    """

    id: str
    messages: list[Message]
    max_tokens: int
    prefix: str = ""
    stop: list[str] = field(default_factory=list)
    sampling: Sampling = Sampling()
    overflow: Overflow = "refuse"
    priority: int = PRIORITY_NORMAL


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


# Qwen2.5's own advice. DRY's base and length are its author's (p-e-w, text-generation-webui #5637); without being asked
# for it is off, as the advice was given without it. Nor is there a guard: the trimmed vocabularies have no tokens for
# Chinese and Japanese to slip into, and an answer may have to quote them.
_DEFAULTS = Sampling(
    temperature=0.7,
    top_p=0.8,
    top_k=20,
    min_p=0.0,
    repetition_penalty=1.05,
    dry_multiplier=0.0,
    dry_base=1.75,
    dry_allowed_length=2,
)
_BOUNDS = (
    ("temperature", 0, 5),
    ("top_p", 0, 1),
    ("min_p", 0, 1),
    ("repetition_penalty", 0.1, 3),
    ("dry_multiplier", 0, 100),
    ("dry_base", 1, 10),
    ("dry_allowed_length", 1, 1000),
)
BANNED = -100.0  # the bias that means never
_MOST_BIAS = 100.0
NOTHING_LEFT = "logit_bias and scripts leave no token to go on with: allow more"


def chosen(sampling: Sampling, name: str) -> float:
    """What the request says of `name`, else what suits the models that are served."""
    value = getattr(sampling, name)
    found: float = getattr(_DEFAULTS, name) if value is None else value
    return found


def check_request(request: GenerateRequest, num_tokens: int | None = None, *, can_slide: bool = False) -> None:
    """Raises BadRequest, naming value and remedy, for what no engine can take, or this one cannot.

    num_tokens    of the vocabulary
    can_slide     it can forget the beginning of a conversation
    """
    if request.overflow == "window" and not can_slide:
        raise BadRequest("overflow is window, which the ark engine alone can do: ask for refuse")
    if request.max_tokens < 1:
        raise BadRequest(f"max_tokens is {request.max_tokens}: ask for 1 or more")
    if not request.messages or request.messages[-1].role != "user":
        raise BadRequest("the last message must be the user's: put the question last")
    for name, low, high in _BOUNDS:
        value = getattr(request.sampling, name)
        if value is not None and not low <= value <= high:
            raise BadRequest(f"{name} is {value}: choose a value from {low} to {high}")
    _check_bias(request.sampling.logit_bias or {}, num_tokens)
    _check_scripts(request.sampling.scripts)


def _check_bias(logit_bias: dict[int, float], num_tokens: int | None) -> None:
    for number, bias in logit_bias.items():
        if number < 0 or (num_tokens is not None and number >= num_tokens):
            known = "" if num_tokens is None else f" to {num_tokens - 1}"
            raise BadRequest(f"logit_bias names token {number}: this model's tokens are 0{known}")
        if not BANNED <= bias <= _MOST_BIAS:
            raise BadRequest(f"logit_bias of token {number} is {bias}: choose a value from {BANNED} to {_MOST_BIAS}")


def _check_scripts(scripts: list[str] | None) -> None:
    known = [script.value for script in Script]
    unknown = [name for name in scripts or [] if name not in known]
    if unknown:
        raise BadRequest(f"scripts has {unknown[0]!r}: choose from {', '.join(known)}")
    if scripts is not None and not scripts:
        raise BadRequest("scripts is empty: name one or more, or leave it out")
