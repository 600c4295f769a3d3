"""What a model learns from: JSON lines of conversations or plain text, checked before anything is computed.

{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}    answers are learnt
{"text": "…"}                                                                              all of it is learnt

A file that ends in .txt is one such text.
"""

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from dure.errors import BadRequest, SettingsError
from dure.gguf import Gguf
from dure.job import Message
from dure_worker.engines.ark.chat_tokenizer import ChatTokenizer

_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Sample:
    """Tokens, and for each whether it is learnt: foreseen from those before it."""

    ids: list[int]
    is_learnt: list[bool]


@dataclass(frozen=True)
class Dataset:
    """num_too_long: conversations of more tokens than there is room for, which are left out."""

    samples: list[Sample]
    num_too_long: int = 0

    @property
    def num_learnt(self) -> int:
        """Tokens."""
        return sum(sum(sample.is_learnt) for sample in self.samples)

    @classmethod
    def of(cls, parts: "list[Dataset]") -> "Dataset":
        """All of them, one behind the other."""
        return cls([sample for part in parts for sample in part.samples], sum(part.num_too_long for part in parts))

    def parted(self, num_held_out: int, seed: int) -> "tuple[Dataset, Dataset]":
        """What is learnt, and what is held out of it, by chance."""
        order = np.random.default_rng(seed).permutation(len(self.samples))
        parts = sorted(order[num_held_out:]), sorted(order[:num_held_out])
        learnt, held_out = (Dataset([self.samples[number] for number in part]) for part in parts)
        return learnt, held_out

    def some(self, number: int, seed: int) -> "Dataset":
        """Of its samples, by chance; all where there are no more."""
        order = np.random.default_rng(seed).permutation(len(self.samples))[:number]
        return Dataset([self.samples[at] for at in sorted(order)], self.num_too_long)

    @classmethod
    def read(cls, path: Path, source: Gguf, length: int) -> "Dataset":
        """Samples of up to `length` tokens by that model's template and vocabulary; a longer text becomes several.

        Raises SettingsError with line, reason and remedy, ModelUnsupported.
        """
        tokenizer = ChatTokenizer(source)
        end = source.get("tokenizer.ggml.eos_token_id")
        ends = [end] if end is not None else sorted(tokenizer.ends)[:1]
        found: list[Sample] = []
        num_too_long = 0
        for where, line in _lines(path):
            if isinstance(line, str):
                found += _of_text(tokenizer.plain(line) + ends, length)
                continue
            try:
                sample = _of_conversation(tokenizer, line, ends)
            except BadRequest as error:
                raise SettingsError(f"{where}: {error}: write it as that template wants it") from None
            if len(sample.ids) <= length:
                found.append(sample)
            else:
                num_too_long += 1
        if not found:
            raise SettingsError(
                f"{path} holds nothing of up to {length} tokens: give shorter conversations, or more room"
            )
        return cls(found, num_too_long)


def _of_text(ids: list[int], length: int) -> Iterator[Sample]:
    for start in range(0, len(ids), length):
        piece = ids[start : start + length]
        if len(piece) > 1:
            yield Sample(piece, [False] + [True] * (len(piece) - 1))


def _of_conversation(tokenizer: ChatTokenizer, messages: list[Message], ends: list[int]) -> Sample:
    """Each answer as it follows from the prompt that a worker would make."""
    num_begin = len(tokenizer.plain(""))
    ids: list[int] = []
    is_learnt: list[bool] = []
    for number, message in enumerate(messages):
        if message.role != "assistant":
            continue
        prompt = tokenizer.prompt(messages[:number])
        if prompt[: len(ids)] != ids:
            # A template that writes earlier answers differently from how they were given: only later ones are learnt.
            ids, is_learnt = [], []
        is_learnt += [False] * (len(prompt) - len(ids))
        answer = tokenizer.plain(message.content)[num_begin:] + ends
        ids = prompt + answer
        is_learnt += [True] * len(answer)
    return Sample(ids, is_learnt)


def _lines(path: Path) -> Iterator[tuple[str, str | list[Message]]]:
    """Where it stands, and a text or a conversation."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}): name a file of JSON lines") from None
    if path.suffix == ".txt":
        yield str(path), _content(str(path), _utf8(str(path), raw))
        return
    for number, line in enumerate(raw.splitlines(), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _checked(where, _decoded(where, line))


def _decoded(where: str, line: bytes) -> Any:
    try:
        return json.loads(_utf8(where, line))
    except ValueError as error:
        _refuse(where, f"no JSON ({error})", "write one object on each line")


def _utf8(where: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse(where, f"no UTF-8 (byte {error.start})", "convert the file, for example with iconv")


def _checked(where: str, found: Any) -> str | list[Message]:
    if not isinstance(found, dict) or ("messages" in found) == ("text" in found):
        _refuse(where, "neither a conversation nor a text", 'write {"messages": […]} or {"text": "…"}')
    if "text" in found:
        return _content(where, found["text"])
    turns = found["messages"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        _refuse(where, "its messages are no list of objects", 'write {"role": …, "content": …} for each turn')
    messages = [Message(_role(where, turn), _content(where, turn.get("content"))) for turn in turns]
    spoken = [message.role for message in messages]
    spoken = spoken[1:] if spoken[:1] == ["system"] else spoken
    if not spoken or len(spoken) % 2 or spoken != ["user", "assistant"] * (len(spoken) // 2):
        told = ", ".join(message.role for message in messages) or "none"
        _refuse(where, f"its roles are {told}", "begin with system or user, alternate, and end with assistant")
    return messages


def _role(where: str, turn: dict[str, Any]) -> Any:
    role = turn.get("role")
    if role not in _ROLES:
        _refuse(where, f"a role is {role!r}", f"choose from {', '.join(_ROLES)}")
    return role


def _content(where: str, found: Any) -> str:
    if not isinstance(found, str) or not found.strip():
        _refuse(where, "a text is missing or empty", "give each turn words, or leave the line out")
    return unicodedata.normalize("NFC", found)


def _refuse(where: str, reason: str, remedy: str) -> NoReturn:
    raise SettingsError(f"{where}: {reason}: {remedy}")
