"""What a model is taught from is checked line by line, and only answers are learnt."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny_gguf
from dure import gguf
from dure.errors import SettingsError
from dure.gguf import Gguf, Value, ValueType
from dure.job import Message

pytest.importorskip("tokenizers", reason="the extra `torch` is not installed")

from dure_worker.engines.ark.chat_tokenizer import ChatTokenizer
from dure_workshop.training.dataset import Dataset, Sample

U, A, S = "user", "assistant", "system"


@pytest.fixture
def source(tmp_path: Path) -> Gguf:
    tiny_gguf.write(tmp_path / "model.gguf")
    return gguf.read(tmp_path / "model.gguf")


def conversation(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def read(source: Gguf, *lines: dict[str, Any] | str, length: int = 500) -> Dataset:
    path = source.path.with_name("data.jsonl")
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return Dataset.read(path, source, length)


def written(source: Gguf, sample: Sample, *, is_learnt: bool) -> str:
    """The tokens that are learnt, or the others, as text; the end of a turn as ∎."""
    tokenizer = ChatTokenizer(source)
    ids = [number for number, learnt in zip(sample.ids, sample.is_learnt, strict=True) if learnt == is_learnt]
    end = source.get("tokenizer.ggml.eos_token_id")
    return b"".join("∎".encode() if number == end else tokenizer.piece(number) for number in ids).decode()


TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% if m.role == 'assistant' %}<|end|>{% endif %}{{ '\n' }}"
    "{% endfor %}assistant:"
)
LONG = conversation((S, "hell"), (U, "hello"), (A, "두레"), (U, "123"), (A, "漢字"))


def test_answers_are_learnt_with_their_end(source: Gguf) -> None:
    template = Value(ValueType.STRING, TEMPLATE)
    found = read(replace(source, values=source.values | {"tokenizer.chat_template": template}), LONG)
    [sample] = found.samples
    assert written(source, sample, is_learnt=True) == "두레∎漢字∎"
    assert written(source, sample, is_learnt=False) == "system:hell\nuser:hello\nassistant:\nuser:123\nassistant:"
    assert found.num_learnt == sum(sample.is_learnt)


def test_of_a_template_that_rewrites_answers_the_last_one_is_learnt(source: Gguf) -> None:
    """It ends each turn with text, not with this vocabulary's token for it."""
    [sample] = read(source, LONG).samples
    assert written(source, sample, is_learnt=True) == "漢字∎"
    assert "두레" in written(source, sample, is_learnt=False)


def test_the_prompt_is_what_a_worker_would_make(source: Gguf) -> None:
    [sample] = read(source, conversation((U, "hello"), (A, "두레"))).samples
    before = sample.is_learnt.index(True)
    asked = conversation((U, "hello"))["messages"][0]
    tokenizer = ChatTokenizer(source)
    assert sample.ids[:before] == tokenizer.prompt([Message(**asked)])
    assert sample.ids[before:] == [*tokenizer.plain("두레"), source.get("tokenizer.ggml.eos_token_id")]


def test_all_of_a_text_is_learnt_in_pieces(source: Gguf) -> None:
    ids = [*ChatTokenizer(source).plain("두레 hello 123"), source.get("tokenizer.ggml.eos_token_id")]
    found = read(source, {"text": "두레 hello 123"}, length=3)
    assert [number for sample in found.samples for number in sample.ids] == ids[: len(ids) // 3 * 3] + (
        ids[len(ids) // 3 * 3 :] if len(ids) % 3 > 1 else []
    )
    # Nothing stands before a piece's first token.
    assert all(sample.is_learnt == [False] + [True] * (len(sample.ids) - 1) for sample in found.samples)


def test_text_is_composed(source: Gguf) -> None:
    composed, decomposed = (read(source, {"text": text}).samples for text in ("두레", "\u1103\u116e\u1105\u1166"))
    assert composed == decomposed


def test_what_is_too_long_is_left_out_and_counted(source: Gguf) -> None:
    short, long = conversation((U, "hello"), (A, "두레")), conversation((U, "hello " * 90), (A, "두레"))
    found = read(source, short, long, "", length=100)
    assert (len(found.samples), found.num_too_long) == (1, 1)
    with pytest.raises(SettingsError, match="holds nothing of up to 100 tokens: give shorter"):
        read(source, long, length=100)


GOOD = conversation((U, "hello"), (A, "두레"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"no JSON \(.*\): write one object on each line"),
        ("[]", "neither a conversation nor a text: write"),
        ({"prompt": "hello"}, "neither a conversation nor a text"),
        (GOOD | {"text": "두레"}, "neither a conversation nor a text"),
        ({"messages": "hello"}, "its messages are no list of objects"),
        ({"messages": ["hello"]}, "its messages are no list of objects"),
        ({"messages": []}, "its roles are none"),
        (
            conversation((U, "hello")),
            "its roles are user: begin with system or user, alternate, and end with assistant",
        ),
        (conversation((A, "두레"), (U, "hello")), "its roles are assistant, user"),
        (conversation((U, "hello"), (U, "hello"), (A, "두레")), "its roles are user, user, assistant"),
        (conversation((U, "a"), (A, "b"), (S, "c"), (U, "d"), (A, "e")), "its roles are user, assistant, system"),
        (conversation((S, "hello")), "its roles are system"),
        (conversation((U, "hello"), ("bot", "두레")), "a role is 'bot': choose from system, user, assistant"),
        (conversation((U, "hello"), (A, "  ")), "a text is missing or empty: give each turn words"),
        ({"messages": [{"role": U}, {"role": A, "content": "두레"}]}, "a text is missing or empty"),
        ({"text": 3}, "a text is missing or empty"),
    ],
)
def test_a_line_that_is_none_is_named(source: Gguf, line: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=rf"data\.jsonl, line 3: {message}"):
        read(source, GOOD, "", line, GOOD)


def test_what_is_no_utf8_is_named(source: Gguf) -> None:
    path = source.path.with_name("data.jsonl")
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + '{"text": "두레"}'.encode("euc-kr"))
    with pytest.raises(SettingsError, match=r"line 2: no UTF-8 \(byte 10\): convert"):
        Dataset.read(path, source, 500)


def test_a_mark_at_the_beginning_is_no_fault(source: Gguf) -> None:
    path = source.path.with_name("data.jsonl")
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert len(Dataset.read(path, source, 500).samples) == 1


def test_a_file_that_is_not_there_is_named(source: Gguf) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.jsonl cannot be read"):
        Dataset.read(source.path.with_name("nowhere.jsonl"), source, 500)
