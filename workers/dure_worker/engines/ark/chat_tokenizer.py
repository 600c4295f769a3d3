"""Conversations into token ids by the model's own template and vocabulary, and ids back into bytes."""

from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from dure import split_patterns
from dure.errors import BadRequest, ModelUnsupported
from dure.gguf import CONTROL, NORMAL, USER_DEFINED, Gguf
from dure.job import Message
from dure.split_patterns import PATTERNS, SENTENCEPIECE
from dure_worker.engines.control_tokens import TURN_ENDS, ControlTokens, control_tokens
from dure_worker.engines.pieces import SPACE, pieces

_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{{ '<|im_start|>assistant\n' }}"
)


class ChatTokenizer:
    """Of byte-level BPE and of SentencePiece's BPE (Gemma). Raises ModelUnsupported for other vocabularies."""

    def __init__(self, source: Gguf) -> None:
        kind = source.get("tokenizer.ggml.model")
        if not split_patterns.is_known(source):
            raise ModelUnsupported(
                f"{source.path.name}: the ark engine does not know how its vocabulary splits text "
                f"({source.get('tokenizer.ggml.pre') or 'no name'}): serve it with DURE_WORKER_ENGINE=llama"
            )
        names: list[str] = source.get("tokenizer.ggml.tokens")
        kinds: list[int] = source.get("tokenizer.ggml.token_type") or [NORMAL] * len(names)
        self._tokenizer = _sentencepiece(source, names) if kind == SENTENCEPIECE else _byte_level(source, names)
        self.pieces = pieces(source)
        self._tokenizer.add_special_tokens(
            [
                AddedToken(name, normalized=False, special=True)
                for name, kind in zip(names, kinds, strict=True)
                if kind in (CONTROL, USER_DEFINED) and name
            ]
        )
        self._control = ControlTokens(control_tokens(source))
        begin, end = (source.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos"))
        # Where the file does not say: SentencePiece's put their beginning before a text (llama.cpp's llama-vocab.cpp).
        self._begin = begin if source.get("tokenizer.ggml.add_bos_token", kind == SENTENCEPIECE) else None
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

    def plain(self, text: str) -> list[int]:
        """A text that is no conversation."""
        ids: list[int] = self._tokenizer.encode(self._control.neutral(text), add_special_tokens=False).ids
        return ids if self._begin is None else [self._begin, *ids]

    def piece(self, number: int) -> bytes:
        """Perhaps a part of a character; nothing for control tokens."""
        return self.pieces[number]


def _byte_level(source: Gguf, names: list[str]) -> Tokenizer:
    pre = source.get("tokenizer.ggml.pre", "")
    merges = source.get("tokenizer.ggml.merges", [])
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    found = Tokenizer(models.BPE(vocab=_numbers(names), merges=pairs, ignore_merges=pre == "llama-bpe"))
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERNS[pre]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return found


def _sentencepiece(source: Gguf, names: list[str]) -> Tokenizer:
    """Pairs merge in the order of the score of what they become; what is left are single characters, else bytes.

    Source: llm_tokenizer_spm of llama.cpp's llama-vocab.cpp.
    """
    scores: list[float] = source.get("tokenizer.ggml.scores")
    numbers = _numbers(names)
    pairs = [
        (-scores[number], name[:place], name[place:])
        for name, number in numbers.items()
        for place in range(1, len(name))
        if name[:place] in numbers and name[place:] in numbers
    ]
    merges = [(left, right) for _, left, right in sorted(pairs, key=lambda pair: pair[0])]
    found = Tokenizer(models.BPE(vocab=numbers, merges=merges, byte_fallback=True))
    steps: list[Any] = [normalizers.Replace(" ", SPACE)]
    if source.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, normalizers.Prepend(SPACE))
    found.normalizer = normalizers.Sequence(steps)
    return found


def _numbers(names: list[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


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
