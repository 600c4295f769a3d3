"""Conversations into token ids by a checkpoint's own tokenizer, and ids back into text."""

import threading
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from dure.errors import BadRequest
from dure.gguf import BYTE, CONTROL, NORMAL
from dure.job import Message
from dure_worker.engines.ark.vocabulary import Vocabulary
from dure_worker.engines.control_tokens import TURN_ENDS, ControlTokens
from dure_worker.engines.pieces import SPACE, is_byte, of_names

# For models that were never taught to chat, such as Polyglot-ko: the marks that Korean instruction data uses.
FALLBACK_TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'user' %}### 질문:\n{% elif message.role == 'assistant' %}"
    "### 답변:\n{% endif %}{{ message.content }}\n\n{% endfor %}### 답변:{{ '\n' }}"
)
# Such a model goes on with the next question by itself.
FALLBACK_STOPS = ["\n### 질문:", "\n### 답변:"]
# Ids before an answer that tell how its first token reads: some tokenizers drop a space at the very beginning.
_NUM_BEFORE = 8
_MOST_IDS = 64


class ChatText:
    """tokenizer: of transformers. ends: ids that end an answer. num_tokens: that the model gives logits for."""

    def __init__(self, tokenizer: Any, ends: Sequence[int], num_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()  # its settings are set anew with each call
        self.has_template = bool(tokenizer.chat_template)
        template = str(tokenizer.chat_template or FALLBACK_TEMPLATE)
        added = tokenizer.added_tokens_decoder
        self.ends = frozenset(ends) | {number for number, token in added.items() if token.content in TURN_ENDS}
        marks = [
            token.content
            for token in added.values()
            if token.special or (token.content.strip() and token.content in template)
        ]
        self.vocabulary = Vocabulary(_pieces(tokenizer, num_tokens), self.ends)
        self._control = ControlTokens([*marks, *tokenizer.all_special_tokens])

    @property
    def stops(self) -> list[str]:
        """Texts that end every answer."""
        return [] if self.has_template else FALLBACK_STOPS

    def prompt(self, messages: list[Message], prefix: str = "") -> list[int]:
        """The conversation, and the answer's beginning. Raises BadRequest where the template refuses it."""
        plain = [{"role": message.role, "content": self._control.neutral(message.content)} for message in messages]
        text = self._rendered(plain) + self._control.neutral(prefix)
        with self._lock:
            # A template writes the token that begins a text itself.
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=not self.has_template)
        return ids

    def decode(self, ids: list[int]) -> str:
        with self._lock:
            text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _rendered(self, messages: list[dict[str, str]]) -> str:
        try:
            return self._render(messages)
        except TemplateError as error:
            refused = error
        try:
            # Some templates (Gemma's) know no system: what it says then stands before the first question.
            return self._render(_without_system(messages))
        except TemplateError:
            raise BadRequest(f"the model's chat template refuses this conversation: {refused}") from None

    def _render(self, messages: list[dict[str, str]]) -> str:
        template = None if self.has_template else FALLBACK_TEMPLATE
        text: str = self._tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True
        )
        return text


def _pieces(tokenizer: Any, num_tokens: int) -> list[bytes]:
    """What each token writes. Models have logits for more tokens than there are."""
    names = [name or "" for name in tokenizer.convert_ids_to_tokens(list(range(min(num_tokens, len(tokenizer)))))]
    names += [""] * (num_tokens - len(names))
    special = set(tokenizer.all_special_ids)
    kinds = [CONTROL if number in special else BYTE if is_byte(name) else NORMAL for number, name in enumerate(names)]
    return of_names(names, kinds, is_spm=any(name.startswith(SPACE) for name in names))


def _without_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    if messages[0]["role"] != "system" or len(messages) == 1:
        return messages
    system, first, *rest = messages
    return [first | {"content": f"{system['content']}\n\n{first['content']}"}, *rest]


class TextStream:
    """An answer's ids into text, as far as it is whole characters.

    before: ids of the prompt. Decoding goes over a few of the last ids at a time: a token reads differently by what
    stands before it, and a character may be spread over several.
    """

    def __init__(self, text: ChatText, before: Sequence[int]) -> None:
        self._text = text
        self._ids = list(before[-_NUM_BEFORE:])
        self._num_shown = len(self._whole())

    def feed(self, number: int) -> str:
        self._ids.append(number)
        whole = self._whole()
        piece = whole[self._num_shown :]
        self._num_shown = max(self._num_shown, len(whole))
        if piece and len(self._ids) > _MOST_IDS:
            self._ids = self._ids[-_NUM_BEFORE:]
            self._num_shown = len(self._whole())
        return piece

    def _whole(self) -> str:
        """Without the character that the last tokens have only begun."""
        return self._text.decode(self._ids).rstrip("\ufffd")
