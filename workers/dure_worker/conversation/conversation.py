"""Bounded context: which part of a conversation becomes the prompt."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from dure.errors import ContextOverflow
from dure.job import JobPayload, Message
from dure_worker.conversation.persona import persona_of

# Of the context, this share is kept for the answer even when more was asked for: a long max_tokens must not push out
# the conversation.
_ANSWER_SHARE = 4


@dataclass(frozen=True)
class Prompt:
    messages: list[Message]
    num_tokens: int
    max_tokens: int  # what was asked for, or what is left of the context where the answer ends with it


class Conversation:
    """fit(payload) -> Prompt. count_tokens gives the tokens of messages as a prompt; context is in tokens."""

    def __init__(self, count_tokens: Callable[[list[Message]], int], context: int) -> None:
        self._count_tokens = count_tokens
        self._context = context

    def fit(self, payload: JobPayload) -> Prompt:
        """Leave out the oldest turns until the rest fits; never the system message and the persona's examples, never
        the last question.

        Raises ContextOverflow when these alone do not fit, unless the payload's overflow is `window`: then the engine
        forgets a part of them, and the answer may outgrow the context.
        """
        can_outgrow = payload.overflow == "window"
        head, turns = _split(payload)
        budget = self._context - min(payload.max_tokens, self._context // _ANSWER_SHARE)
        while True:
            num_tokens = self._count_tokens([*head, *turns])
            if num_tokens <= budget or (can_outgrow and len(turns) <= 1):
                room = payload.max_tokens if can_outgrow else self._context - num_tokens
                return Prompt([*head, *turns], num_tokens, min(payload.max_tokens, room))
            if len(turns) <= 1:
                raise ContextOverflow(num_tokens, budget)
            turns = _without_oldest(turns)


def _split(payload: JobPayload) -> tuple[list[Message], list[Message]]:
    """What stands before the conversation (the system message, the client's own or the persona's, and the persona's
    examples), and the conversation's turns.
    """
    messages = _composed(payload.messages)
    own = [message.content for message in messages if message.role == "system"]
    turns = [message for message in messages if message.role != "system"]
    if own and payload.style is None and payload.personality is None:
        return [Message("system", "\n\n".join(own))], turns
    persona = persona_of(payload)
    system, *examples = _composed([Message("system", persona.system), *persona.examples])
    return [Message("system", "\n\n".join([system.content, *own])), *examples], turns


def _composed(messages: list[Message]) -> list[Message]:
    return [Message(message.role, composed(message.content)) for message in messages]


def composed(text: str) -> str:
    """Syllables instead of the jamo that macOS and some keyboards write (NFC): vocabularies know no others."""
    return unicodedata.normalize("NFC", text)


def _without_oldest(turns: list[Message]) -> list[Message]:
    """Drop the first question together with its answer, so that the rest begins with a question again."""
    rest = turns[1:]
    while len(rest) > 1 and rest[0].role == "assistant":
        rest = rest[1:]
    return rest
