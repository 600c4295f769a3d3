"""Bounded context: which part of a conversation becomes the prompt."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from dure.errors import ContextOverflow
from dure.job import JobPayload, Message
from dure_worker.conversation.persona import system_text

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
        """Leave out the oldest turns until the rest fits; never the system message, never the last question.

        Raises ContextOverflow when these two alone do not fit, unless the payload's overflow is `window`: then the
        engine forgets a part of them, and the answer may outgrow the context.
        """
        can_outgrow = payload.overflow == "window"
        system, turns = _split(payload)
        budget = self._context - min(payload.max_tokens, self._context // _ANSWER_SHARE)
        while True:
            num_tokens = self._count_tokens([system, *turns])
            if num_tokens <= budget or (can_outgrow and len(turns) <= 1):
                room = payload.max_tokens if can_outgrow else self._context - num_tokens
                return Prompt([system, *turns], num_tokens, min(payload.max_tokens, room))
            if len(turns) <= 1:
                raise ContextOverflow(num_tokens, budget)
            turns = _without_oldest(turns)


def _split(payload: JobPayload) -> tuple[Message, list[Message]]:
    """The system message, the client's own or the persona's, and the turns."""
    messages = [Message(message.role, composed(message.content)) for message in payload.messages]
    own = [message.content for message in messages if message.role == "system"]
    turns = [message for message in messages if message.role != "system"]
    if own and payload.style is None and payload.personality is None:
        return Message("system", "\n\n".join(own)), turns
    return Message("system", "\n\n".join([system_text(payload.style, payload.personality), *own])), turns


def composed(text: str) -> str:
    """Syllables instead of the jamo that macOS and some keyboards write (NFC): vocabularies know no others."""
    return unicodedata.normalize("NFC", text)


def _without_oldest(turns: list[Message]) -> list[Message]:
    """Drop the first question together with its answer, so that the rest begins with a question again."""
    rest = turns[1:]
    while len(rest) > 1 and rest[0].role == "assistant":
        rest = rest[1:]
    return rest
