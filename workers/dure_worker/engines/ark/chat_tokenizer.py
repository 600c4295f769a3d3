"""Conversations into token ids by the model's own template and vocabulary, and ids back into bytes."""

from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

from dure.byte_tokens import TO_BYTE
from dure.errors import BadRequest, ModelUnsupported
from dure.gguf import CONTROL, NORMAL, USER_DEFINED, Gguf
from dure.job import Message
from dure.split_patterns import PATTERNS
from dure_worker.engines.control_tokens import TURN_ENDS, ControlTokens, control_tokens

_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{{ '<|im_start|>assistant\n' }}"
)


class ChatTokenizer:
    """Of byte-level BPE vocabularies. Raises ModelUnsupported for others."""

    def __init__(self, source: Gguf) -> None:
        pre = source.get("tokenizer.ggml.pre", "")
        if source.get("tokenizer.ggml.model") != "gpt2" or pre not in PATTERNS:
            raise ModelUnsupported(
                f"{source.path.name}: the ark engine does not know how its vocabulary splits text "
                f"({pre or 'no name'}): serve it with DURE_WORKER_ENGINE=llama"
            )
        names: list[str] = source.get("tokenizer.ggml.tokens")
        kinds: list[int] = source.get("tokenizer.ggml.token_type") or [NORMAL] * len(names)
        self._tokenizer = _tokenizer(names, kinds, source.get("tokenizer.ggml.merges", []), pre)
        self._bytes = [_bytes_of(name, kind) for name, kind in zip(names, kinds, strict=True)]
        self._control = ControlTokens(control_tokens(source))
        begin, end = (source.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos"))
        self._begin = begin if source.get("tokenizer.ggml.add_bos_token", False) else None
        self._names = {"bos_token": _name(names, begin), "eos_token": _name(names, end)}
        self._template = _environment().from_string(source.get("tokenizer.chat_template") or _CHATML)
        self.ends = frozenset(
            number
            for number, name in enumerate(names)
            if number == end or (kinds[number] == CONTROL and name in TURN_ENDS)
        )

    def prompt(self, messages: list[Message], prefix: str = "") -> list[int]:
        """The conversation, and the answer's beginning. Raises BadRequest where the template refuses it."""
        plain = [{"role": message.role, "content": self._control.neutral(message.content)} for message in messages]
        try:
            text = self._template.render(messages=plain, add_generation_prompt=True, **self._names)
        except TemplateError as error:
            raise BadRequest(f"the model's chat template refuses this conversation: {error}") from None
        ids: list[int] = self._tokenizer.encode(text + self._control.neutral(prefix), add_special_tokens=False).ids
        if self._begin is not None and ids[:1] != [self._begin]:
            ids.insert(0, self._begin)
        return ids

    def piece(self, number: int) -> bytes:
        """Perhaps a part of a character; nothing for control tokens."""
        return self._bytes[number]


def _tokenizer(names: list[str], kinds: list[int], merges: list[str], pre: str) -> Tokenizer:
    vocabulary = {name: number for number, name in enumerate(names)}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    found = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=pre == "llama-bpe"))
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERNS[pre]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    found.add_special_tokens(
        [
            AddedToken(name, normalized=False, special=True)
            for name, kind in zip(names, kinds, strict=True)
            if kind in (CONTROL, USER_DEFINED) and name
        ]
    )
    return found


def _bytes_of(name: str, kind: int) -> bytes:
    if kind == NORMAL:
        return bytes(TO_BYTE[character] for character in name)
    return name.encode("utf-8") if kind == USER_DEFINED else b""


def _name(names: list[str], number: int | None) -> str:
    return "" if number is None else names[number]


def _environment() -> ImmutableSandboxedEnvironment:
    """As Hugging Face transformers renders templates."""

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    def now(form: str) -> str:
        return datetime.now().astimezone().strftime(form)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    functions: dict[str, Any] = {"raise_exception": refuse, "strftime_now": now}
    environment.globals |= functions
    return environment
