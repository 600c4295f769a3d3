"""Texts to learn from or be judged by: plain files, and the lines that training data are."""

import json
from pathlib import Path

import pytest

from dure.errors import SettingsError
from dure_workshop import texts
from dure_workshop.perplexity import MOST_TOKENS, WINDOW, spread


def test_a_file_is_taken_as_a_worker_writes_prompts(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeff두레".encode() + "ㄱ\u1112\u1161\u11ab".encode())
    assert texts.read_text(path) == "두레ㄱ한"


def test_lines_say_texts_and_conversations(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    turns = [{"role": "user", "content": "두레가 뭐야?"}, {"role": "assistant", "content": "마을의 모임이에요."}]
    lines = [{"text": "품앗이", "path": "ignored"}, {"messages": turns}]
    path.write_text("\n\n".join(json.dumps(line) for line in lines), "utf-8")
    assert texts.read_text(path) == "품앗이\n\n두레가 뭐야?\n\n마을의 모임이에요."


@pytest.mark.parametrize(
    "line", ["두레", "[]", "3", '{"texts": "a"}', '{"text": 3}', '{"messages": [{"role": "user"}]}']
)
def test_a_line_that_says_nothing_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "두레"}\n' + line, "utf-8")
    with pytest.raises(SettingsError, match=r"data\.jsonl, line 2: neither .* write one of these"):
        texts.read_text(path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read .* name a text file"):
        texts.read_text(tmp_path / "nowhere.txt")
    (tmp_path / "old.txt").write_bytes("두레".encode("euc-kr"))
    with pytest.raises(SettingsError, match=r"is no UTF-8 .* iconv"):
        texts.read_text(tmp_path / "old.txt")


def test_of_a_long_text_windows_lie_evenly_over_it() -> None:
    short = list(range(WINDOW + 10))
    assert spread(short) == [short[:WINDOW], short[WINDOW:]]
    long = list(range(10 * MOST_TOKENS))
    windows = spread(long)
    assert sum(map(len, windows)) == MOST_TOKENS
    assert [window[0] for window in windows] == list(range(0, len(long), 10 * WINDOW))
