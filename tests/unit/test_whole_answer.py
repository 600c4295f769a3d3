"""An answer whose limit tears its only sentence comes to that sentence's end, and no further."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Literal

import pytest

from dure.edits import Pass
from dure.errors import ContextOverflow
from dure.events import EventType
from dure.job import Message, Sampling, Usage
from dure_worker.engines import EngineInfo, GenerateRequest, Token
from dure_worker.korean.editor import KoreanEditor
from dure_worker.runner import Reply
from dure_worker.whole_answer import whole_answer


@dataclass
class Reciting:
    """Says its text word by word, from behind the prefix on, as an engine does."""

    text: str
    context: int = 2048
    num_prompt_tokens: int = 10
    requests: list[GenerateRequest] = field(default_factory=list)
    ends_more_with: Literal["", "cancelled"] = ""
    is_full: bool = False

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("reciting", "m", 1, self.context)

    def count_tokens(self, messages: list[Message]) -> int:
        return self.num_prompt_tokens

    def cancel(self, request_id: str) -> None:
        raise AssertionError(request_id)

    def close(self) -> None:
        pass

    def generate(self, request: GenerateRequest) -> Generator[Token]:
        self.requests.append(request)
        if len(self.requests) > 1 and self.is_full:
            raise ContextOverflow(self.context, self.context)
        assert self.text.startswith(request.prefix)
        said = [word + " " for word in self.text[len(request.prefix) :].split()]
        num_said = min(len(said), request.max_tokens)
        for word in said[:num_said]:
            yield Token(word)
        reason: Literal["stop", "length", "cancelled"] = "length" if num_said < len(said) else "stop"
        if len(self.requests) > 1 and self.ends_more_with:
            reason = self.ends_more_with
        yield Token("", reason, Usage(self.num_prompt_tokens, num_said))


ASKED = [Message("user", "두레가 뭐예요?")]
LONG = "두레는 농촌에서 농사일을 서로 돕기 위하여 둔 모임입니다. 그리고 향약은 다른 것입니다. "


def answered(engine: Reciting, max_tokens: int, prefix: str = "") -> tuple[str, Token]:
    editor = KoreanEditor([], before=prefix)
    text, last = "", Token("")
    for token in whole_answer(engine, GenerateRequest("r", ASKED, max_tokens, prefix), editor):
        last = token
        text += "".join(sentence.text for sentence in editor.feed(token.text))
    text += "".join(sentence.text for sentence in editor.finish(is_cut=last.finish_reason != "stop"))
    return text.rstrip(), last


def test_a_single_torn_sentence_comes_to_its_end() -> None:
    engine = Reciting(LONG)
    text, last = answered(engine, 4)
    assert text == "두레는 농촌에서 농사일을 서로 돕기 위하여 둔 모임입니다."
    assert last.finish_reason == "length"
    assert last.usage == Usage(10, 8)
    assert [request.prefix for request in engine.requests] == ["", "두레는 농촌에서 농사일을 서로 "]


def test_where_something_whole_can_stay_nothing_more_is_computed() -> None:
    engine = Reciting(LONG)
    text, last = answered(engine, 10)
    assert text == "두레는 농촌에서 농사일을 서로 돕기 위하여 둔 모임입니다."
    assert len(engine.requests) == 1
    assert last.usage == Usage(10, 10)


def test_an_answer_that_ended_by_itself_is_left() -> None:
    engine = Reciting("두레는 모임")
    assert answered(engine, 9) == ("두레는 모임", Token("", "stop", Usage(10, 2)))
    assert len(engine.requests) == 1


def test_a_model_that_ends_the_sentence_by_itself_has_stopped() -> None:
    engine = Reciting("두레는 옛날 모임")
    text, last = answered(engine, 1)
    assert (text, last.finish_reason, last.usage) == ("두레는 옛날 모임", "stop", Usage(10, 3))


def test_it_goes_on_once_and_for_64_tokens_at_most() -> None:
    engine = Reciting("말 " * 500)
    text, last = answered(engine, 4)
    assert [request.max_tokens for request in engine.requests] == [4, 64]
    assert last.usage == Usage(10, 68)
    assert text.count("말") == 68


@pytest.mark.parametrize(("context", "more"), [(20, 6), (14, 0), (12, 0)])
def test_it_goes_no_further_than_the_context(context: int, more: int) -> None:
    engine = Reciting("말 " * 500, context=context)
    _, last = answered(engine, 4)
    assert last.usage.completion_tokens == 4 + more


def test_a_context_that_is_full_after_all_ends_the_answer_as_it_is() -> None:
    engine = Reciting("말 " * 500, is_full=True)
    text, last = answered(engine, 4)
    assert (text, last.finish_reason, last.usage) == ("말 말 말 말", "length", Usage(10, 4))


def test_cancelled_on_the_way_to_the_end_is_cancelled() -> None:
    engine = Reciting("말 말 말 말 말 말", ends_more_with="cancelled")
    _, last = answered(engine, 4)
    assert last.finish_reason == "cancelled"


def test_what_was_taken_over_is_part_of_the_sentence() -> None:
    engine = Reciting(LONG)
    text, _ = answered(engine, 3, prefix="두레는 농촌에서 ")
    assert text == "농사일을 서로 돕기 위하여 둔 모임입니다."


@dataclass
class Trying(Reciting):
    """Says one text after the other, each from behind the prefix on that it is asked for."""

    texts: list[str] = field(default_factory=list)

    def generate(self, request: GenerateRequest) -> Generator[Token]:
        self.text = request.prefix + self.texts[len(self.requests)]
        return super().generate(request)


def natively(engine: Reciting, max_tokens: int = 50, sampling: Sampling = Sampling()) -> tuple[str, list[Token]]:
    """The answer where Han characters and kana have no place, and the tokens behind it."""
    editor = KoreanEditor([Pass.FOREIGN], is_native=True)
    text, tokens = "", []
    for token in whole_answer(engine, GenerateRequest("r", ASKED, max_tokens, sampling=sampling), editor):
        tokens.append(token)
        text += "".join(sentence.text for sentence in editor.feed(token.text))
    text += "".join(sentence.text for sentence in editor.finish(is_cut=tokens[-1].finish_reason != "stop"))
    return text, tokens


def test_a_sentence_with_foreign_letters_is_written_anew() -> None:
    engine = Trying("", texts=["두레입니다. 우리 の 마을", " 우리 마을입니다."])
    text, tokens = natively(engine)
    assert text == "두레입니다. 우리 마을입니다."
    assert [request.prefix for request in engine.requests] == ["", "두레입니다."]
    assert tokens[-1] == Token("", "stop", Usage(10, 5))


def test_each_try_has_dice_of_its_own_and_what_is_left_of_the_limit() -> None:
    engine = Trying("", texts=["우리 の", "그 の", "마을입니다."])
    natively(engine, 9, Sampling(temperature=0, seed=2**31 - 2))
    assert [request.sampling.seed for request in engine.requests] == [2**31 - 2, 2**31 - 1, 0]
    assert [request.sampling.temperature for request in engine.requests] == [0, 0.5, 0.5]
    assert [request.max_tokens for request in engine.requests] == [9, 7, 5]


def test_after_two_more_tries_the_letters_are_left_out() -> None:
    engine = Trying("", texts=["우리 の 마을"] * 4)
    text, tokens = natively(engine)
    assert text == "우리 마을"
    assert len(engine.requests) == 3
    assert tokens[-1] == Token("", "stop", Usage(10, 7))


def test_the_two_tries_are_of_the_answer_not_of_each_sentence() -> None:
    engine = Trying("", texts=["가요. 나는 の", "나는 가요. 그 の", "그 の 마을. 또 の 마을."])
    text, _ = natively(engine)
    assert text == "가요. 나는 가요. 그 마을. 또 마을."


def test_at_the_limit_there_is_no_other_try() -> None:
    engine = Trying("", texts=["우리 の 마을", "마을입니다."])
    text, tokens = natively(engine, 2)
    assert text == "우리 마을입니다."
    assert [(request.prefix, request.max_tokens) for request in engine.requests] == [("", 2), ("우리 の ", 64)]
    assert tokens[-1] == Token("", "length", Usage(10, 3))


@pytest.mark.parametrize("said", ["이것은 두레(農社)입니다.", "이것은 `の` 입니다.", "두레(옛날 社"])
def test_in_brackets_and_code_they_are_in_their_place(said: str) -> None:
    engine = Trying("", texts=[said])
    natively(engine)
    assert len(engine.requests) == 1


def test_the_next_sentence_replaces_what_was_taken_back() -> None:
    engine = Trying("", texts=["두레입니다. 우리 の 마을", "우리 마을입니다."])
    reply = Reply(passes=[Pass.FOREIGN], is_native=True)
    drafts, shown = [], ""
    for token in whole_answer(engine, GenerateRequest("r", ASKED, 50), reply):
        drafts += reply.feed(token.text)
    drafts += reply.finish(is_cut=False)
    for draft in drafts:
        shown = shown + draft.text if draft.type is EventType.TOKEN else shown[draft.replaces :]
    assert not shown.strip()
    assert reply.text == "두레입니다. 우리 마을입니다."


def test_what_was_given_of_the_sentence_stays() -> None:
    seconds = iter(range(100))
    editor = KoreanEditor([Pass.FOREIGN], is_native=True, hold_s=2, clock=lambda: next(seconds))
    pieces = ["이것은 ", "우리 ", "마을의 ", "오래된 ", "모임 ", "の"]
    given = "".join(sentence.text for piece in pieces for sentence in editor.feed(piece))
    assert given
    forgotten = editor.take_back()
    assert given + forgotten == "".join(pieces)
    assert editor.take_back() == ""
    rest = [*editor.feed(" 모임입니다."), *editor.finish(is_cut=False)]
    assert given + "".join(sentence.text for sentence in rest) == given + " 모임입니다."
    assert editor.counts == {Pass.FOREIGN: 1}


@pytest.mark.parametrize(
    ("text", "is_torn"),
    [
        ("", True),
        ("두레는 옛날", True),
        ("두레는 모임입니다", False),
        ("두레는 모임입니다. 그리고", False),
        ("다음과 같습니다:\n", True),
        ("다음과 같습니다:\n- 사과\n- 배", False),
        ("다음과 같습니다:\n- 사", True),
        ("순서입니다:\n1. 씻습니다.\n2.", False),
        ("좋아요 😊", False),
        ("```\na = 1\n", False),
        ("예: ```\na", False),
        ("가. ", True),
        ("“책은 창문이다” - 어느 작가\n그", False),
        ("“책은 창문이다” - \n그", True),
        ("“책은 창문이다”라는 말\n그", True),
    ],
)
def test_torn_is_what_cannot_be_cut_back(text: str, is_torn: bool) -> None:
    editor = KoreanEditor([])
    editor.feed(text)
    assert editor.is_torn is is_torn
