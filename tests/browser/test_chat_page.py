"""The chat page in a real browser, against a real gateway and a worker that recites."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

pytestmark = pytest.mark.browser

LONG_MS = 60_000
JOB = {
    "job_id": "j1",
    "conversation_id": "c1",
    "status": "queued",
    "links": {"self": "/v1/jobs/j1", "events": "/v1/jobs/j1/events"},
}
DONE = JOB | {"status": "done", "reply": "끝났습니다.", "timings": {"tokens_per_s": 12.34, "total_s": 5.6}}


@pytest.fixture
def page(scripted_stack: Any, browser_page: Page) -> Page:
    browser_page.goto(scripted_stack.web_url)
    return browser_page


@contextmanager
def unwatched(page: Page, **options: Any) -> Iterator[Page]:
    """A page whose console nobody reads: the browser itself logs each failed request as an error."""
    url = page.url
    assert page.context.browser is not None
    context = page.context.browser.new_context(**{"locale": "ko-KR", **options})
    try:
        other = context.new_page()
        other.goto(url)
        yield other
    finally:
        context.close()


def ask(page: Page, text: str) -> None:
    page.fill("#message", text)
    page.click("#send")


def answer(page: Page, number: int = 0) -> Any:
    return page.locator('[data-role="assistant"]').nth(number)


def expect_status(page: Page, status: str, number: int = 0) -> None:
    expect(answer(page, number)).to_have_attribute("data-status", status, timeout=LONG_MS)


def sse(*events: tuple[str, str, dict[str, Any]]) -> str:
    """Server-sent events from (id, name, data); reconnecting at once keeps the tests short."""
    lines = ["retry: 10\n\n"]
    for event_id, name, data in events:
        lines += [f"id: {event_id}\n"] if event_id else []
        lines += [f"event: {name}\ndata: {json.dumps(data)}\n\n"]
    return "".join(lines)


def serve_events(page: Page, *streams: str) -> None:
    """Accept any question and answer it with these streams, one a connection; the last one again and again."""
    left = list(streams)

    def stream(route: Route) -> None:
        route.fulfill(body=left.pop(0) if len(left) > 1 else left[0], content_type="text/event-stream")

    page.route("**/v1/jobs", lambda route: route.fulfill(status=202, json=JOB))
    page.route("**/v1/jobs/j1/events", stream)


def record_notes(page: Page) -> None:
    """Keep each note shown in window.notes: some stand too briefly to be waited for."""
    page.evaluate(
        """() => {
          window.notes = [];
          const look = () => window.notes.push(document.querySelector(".note")?.textContent);
          new MutationObserver(look).observe(document.getElementById("log"), {childList: true, subtree: true});
        }"""
    )


def test_a_click_on_send_streams_an_answer_to_its_end(page: Page) -> None:
    ask(page, "두레가 뭐예요?")
    expect(page.locator('[data-role="user"]')).to_have_text("두레가 뭐예요?")
    expect(page.locator("#cancel")).to_be_visible()
    expect_status(page, "running")
    expect_status(page, "done")
    expect(answer(page).locator(".fixed")).to_contain_text("“두레가 뭐예요?”라고 물으셨습니다. 두레는")
    expect(answer(page).locator(".note")).to_contain_text(re.compile(r"초당 [\d.]+토큰 · [\d.]+초"))
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator("#cancel")).to_be_hidden()


def test_an_example_starts_the_conversation_and_new_brings_the_first_screen_back(page: Page) -> None:
    expect(page).to_have_title("두레")
    page.locator("#examples button").first.click()
    expect(page.locator('[data-role="user"]')).to_have_text("안녕하세요! 오늘 날씨가 어때요?")
    expect(page.locator("#welcome")).to_be_hidden()
    expect_status(page, "running")
    with page.expect_request(lambda request: request.method == "DELETE"):
        page.click("#new")
    expect(page.locator("#welcome")).to_be_visible()
    expect(page.locator("#log > *")).to_have_count(0)
    with page.expect_request("**/v1/jobs") as request:
        ask(page, "새로 시작해요")
    assert "conversation_id" not in request.value.post_data_json
    page.click("#cancel")
    expect_status(page, "cancelled")


def test_drafts_become_final_text(page: Page) -> None:
    ask(page, "천천히 말해 주세요")
    draft, fixed = answer(page).locator(".draft"), answer(page).locator(".fixed")
    expect(draft).not_to_be_empty(timeout=LONG_MS)
    expect(fixed).to_contain_text("라고 물으셨습니다.", timeout=LONG_MS)
    expect(draft).not_to_contain_text("물으셨습니다.")
    expect_status(page, "done")
    expect(draft).to_be_empty()
    expect(fixed).to_contain_text("큰일을 해냅니다.")


def test_cancel_stops_an_answer_and_keeps_its_beginning(page: Page) -> None:
    ask(page, "길게 이야기해 주세요")
    expect(answer(page).locator(".fixed")).to_contain_text("물으셨습니다.", timeout=LONG_MS)
    page.click("#cancel")
    expect_status(page, "cancelled")
    expect(answer(page).locator(".fixed")).to_contain_text("물으셨습니다.")
    expect(answer(page).locator(".note")).to_contain_text("중지됨")
    expect(page.locator("#send")).to_be_visible()


def test_enter_sends_and_shift_enter_makes_a_new_line(page: Page) -> None:
    page.focus("#message")
    page.keyboard.type("첫 줄")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("둘째 줄")
    expect(page.locator("#message")).to_have_value("첫 줄\n둘째 줄")
    expect(answer(page)).to_have_count(0)
    with page.expect_request("**/v1/jobs") as request:
        page.keyboard.press("Enter")
    assert request.value.post_data_json["message"] == "첫 줄\n둘째 줄"
    expect(page.locator("#message")).to_have_value("")
    page.click("#cancel")
    expect_status(page, "cancelled")


def test_enter_does_not_send_a_syllable_that_is_being_composed(page: Page) -> None:
    page.fill("#message", "안녕하세")
    for composing in ({"isComposing": True}, {"keyCode": 229}):
        page.dispatch_event("#message", "keydown", {"key": "Enter", **composing})
    expect(answer(page)).to_have_count(0)
    expect(page.locator("#message")).to_have_value("안녕하세")


def test_the_chosen_style_and_personality_are_sent_and_remembered(page: Page) -> None:
    page.select_option("#style", "casual")
    page.select_option("#personality", "concise")
    with page.expect_request("**/v1/jobs") as request:
        ask(page, "반가워요")
    body = request.value.post_data_json
    assert (body["style"], body["personality"]) == ("casual", "concise")
    uuid = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    assert re.fullmatch(uuid, request.value.headers["idempotency-key"])
    page.click("#cancel")
    expect_status(page, "cancelled")
    page.reload()
    expect(page.locator("#style")).to_have_value("casual")
    expect(page.locator("#personality")).to_have_value("concise")


def test_the_choices_are_those_of_the_gateway(page: Page) -> None:
    korean = ["격식 있게(합니다)", "친근하게(해요)", "편하게(반말)", "전문가답게"]
    expect(page.locator("#style option")).to_have_text(korean)
    expect(page.locator("#personality option")).to_have_text(["알차게", "따뜻하게", "간결하게", "재치 있게"])
    with unwatched(page, locale="en-US") as other:
        expect(other.locator("#style option")).to_have_text(["Formal", "Friendly", "Informal", "Expert"])
        expect(other.locator("#style")).to_have_value("polite")


def test_an_operators_own_personality_is_offered_as_text_and_remembered(page: Page) -> None:
    title = {"ko": "<b>구청</b> 안내", "en": "District office"}
    offered = {
        "styles": [{"name": "casual", "title": {"ko": "해요", "en": "Friendly"}}],
        "personalities": [{"name": name, "title": title} for name in ("helpful", "clerk")],
    }
    # The gateway behind the page knows no clerk and refuses the question, which the browser writes into its console.
    with unwatched(page) as other:
        other.route("**/api/personas", lambda route: route.fulfill(json=offered))
        other.reload()
        expect(other.locator("#style")).to_have_value("casual")
        expect(other.locator("#personality option")).to_have_text([title["ko"]] * 2)
        other.select_option("#personality", "clerk")
        other.reload()
        expect(other.locator("#personality")).to_have_value("clerk")
        with other.expect_request("**/v1/jobs") as request:
            ask(other, "등본은요?")
        assert request.value.post_data_json["personality"] == "clerk"


def test_without_the_gateways_list_the_page_offers_what_it_knows(page: Page) -> None:
    with unwatched(page) as other:
        other.route("**/api/personas", lambda route: route.fulfill(status=500, body="no list"))
        with other.expect_response("**/api/personas"):
            other.reload()
        expect(other.locator("#style option")).to_have_text(["격식 있게(합니다)", "친근하게(해요)", "전문가답게"])
        other.select_option("#style", "casual")


def test_a_second_question_carries_the_conversation_of_the_first(page: Page) -> None:
    with page.expect_response("**/v1/jobs") as response:
        ask(page, "제 이름은 민지예요")
    conversation_id = response.value.json()["conversation_id"]
    page.click("#cancel")
    expect_status(page, "cancelled")
    with page.expect_request("**/v1/jobs") as request:
        ask(page, "제 이름이 뭐라고요?")
    assert request.value.post_data_json["conversation_id"] == conversation_id
    page.click("#cancel")
    expect_status(page, "cancelled", number=1)


def test_a_refused_question_shows_what_to_do_and_can_be_sent_again(page: Page) -> None:
    error = {"code": "queue_full", "message": "기다리는 작업이 이미 7개입니다.", "remedy": "잠시 뒤에 보내 주세요."}
    with unwatched(page) as other:
        other.route("**/v1/jobs", lambda route: route.fulfill(status=429, json={"error": error}))
        with other.expect_request("**/v1/jobs") as first:
            ask(other, "자리 있나요?")
        expect_status(other, "failed")
        expect(answer(other)).to_contain_text(error["message"])
        expect(answer(other)).to_contain_text(error["remedy"])
        other.unroute("**/v1/jobs")
        with other.expect_request("**/v1/jobs") as second:
            other.click(".retry")
        assert second.value.headers["idempotency-key"] == first.value.headers["idempotency-key"]
        other.click("#cancel")
        expect_status(other, "cancelled")


def test_an_unreachable_gateway_is_named_as_such(page: Page) -> None:
    with unwatched(page) as other:
        other.context.set_offline(True)
        ask(other, "들리나요?")
        expect_status(other, "failed")
        expect(answer(other)).to_contain_text("서버에 연결할 수 없습니다.")
        expect(other.locator(".retry")).to_be_visible()


def test_a_failed_job_is_explained_with_its_remedy(page: Page) -> None:
    error = {"code": "expired", "message": "차례를 기다리다 지났습니다.", "remedy": "잠시 뒤에 다시 물어봐 주세요."}
    failed = JOB | {"status": "failed", "reply": None, "error": error}
    serve_events(page, sse(("1-0", "final", failed)))
    ask(page, "아직인가요?")
    expect_status(page, "failed")
    expect(answer(page)).to_contain_text(error["message"])
    expect(answer(page)).to_contain_text(error["remedy"])


def test_the_place_in_the_queue_is_shown(page: Page) -> None:
    record_notes(page)
    waiting = [("", "queued", {"queue_position": position}) for position in (3, 0)]
    serve_events(page, sse(waiting[0]), sse(waiting[1]), sse(("1-0", "final", DONE)))
    ask(page, "몇 번째인가요?")
    expect_status(page, "done")
    notes = page.evaluate("window.notes")
    assert "앞에 3명이 기다리고 있습니다." in notes
    assert "다음 차례입니다. 잠시만 기다려 주세요." in notes


def test_a_second_attempt_replaces_the_text_of_the_first(page: Page) -> None:
    first = [
        ("1-0", "start", {"attempt": 1}),
        ("2-0", "token", {"text": "하나입니다. 버려질"}),
        ("3-0", "sentence", {"text": "하나입니다. ", "replaces": 7}),
    ]
    second = [
        ("4-0", "start", {"attempt": 2}),
        ("5-0", "sentence", {"text": "하나입니다. ", "replaces": 0}),
        ("6-0", "token", {"text": "둘입"}),
    ]
    record_notes(page)
    serve_events(page, sse(*first, *second), sse())
    ask(page, "다시 시작해도 되나요?")
    expect(answer(page).locator(".text")).to_have_text("하나입니다. 둘입", timeout=LONG_MS)
    expect(answer(page).locator(".draft")).to_have_text("둘입")
    assert "답변이 중간에 끊겨 다시 쓰고 있습니다." in page.evaluate("window.notes")


def test_an_edited_sentence_takes_the_place_of_what_it_was_made_from(page: Page) -> None:
    serve_events(
        page,
        sse(
            ("1-0", "start", {"attempt": 1}),
            ("2-0", "token", {"text": "내일은 몇일이예요 😀. 그"}),
            ("3-0", "sentence", {"text": "내일은 며칠이에요? ", "replaces": 13}),
            ("4-0", "token", {"text": "리고"}),
        ),
        sse(),
    )
    ask(page, "며칠인가요?")
    expect(answer(page).locator(".text")).to_have_text("내일은 며칠이에요? 그리고", timeout=LONG_MS)
    expect(answer(page).locator(".draft")).to_have_text("그리고")


def test_a_broken_stream_is_taken_up_where_it_broke(page: Page) -> None:
    record_notes(page)
    begin = sse(("1-0", "start", {"attempt": 1}), ("2-0", "token", {"text": "처음"}))
    serve_events(page, begin, sse(("3-0", "final", DONE)))
    ask(page, "끊겨도 괜찮나요?")
    expect_status(page, "done")
    assert "연결이 끊겨 다시 잇는 중입니다." in page.evaluate("window.notes")
    expect(answer(page).locator(".fixed")).to_have_text("끝났습니다.")
    expect(answer(page).locator(".note")).to_have_text("초당 12.3토큰 · 5.6초")


def test_markup_is_shown_as_text(page: Page) -> None:
    attempt = "<img src=x onerror=alert(1)>"
    page.on("dialog", lambda dialog: pytest.fail(f"script ran: {dialog.message}"))
    ask(page, attempt)
    expect(page.locator('[data-role="user"] .text')).to_have_text(attempt)
    expect(answer(page).locator(".fixed")).to_contain_text(attempt, timeout=LONG_MS)
    expect(page.locator("#log img")).to_have_count(0)
    page.click("#cancel")
    expect_status(page, "cancelled")


def test_an_english_browser_gets_an_english_page(page: Page) -> None:
    expect(page.locator("html")).to_have_attribute("lang", "ko")
    with unwatched(page, locale="en-US") as other:
        expect(other.locator("html")).to_have_attribute("lang", "en")
        expect(other.locator("#send")).to_have_text("Send")
        expect(other.get_by_label("Message")).to_be_visible()
        expect(other.get_by_label("Tone")).to_have_value("polite")
        left = other.locator("[data-text]").filter(has_text=re.compile("[가-힣]"))
        expect(left).to_have_count(0)


def test_a_phone_sees_the_whole_page_without_sideways_scrolling(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    expect(page.locator("#send")).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_code_and_bold_of_an_answer_are_shown_as_such_and_html_in_them_stays_text(page: Page) -> None:
    reply = "**뒤집기**는 `[::-1]`입니다.\n\n```python\nprint('<b>x</b>')  # **그대로**\n```\n끝."
    serve_events(page, sse(("1-0", "final", DONE | {"reply": reply})))
    ask(page, "어떻게 뒤집나요?")
    expect_status(page, "done")
    expect(answer(page).locator("strong")).to_have_text(["뒤집기"])
    expect(answer(page).locator("code")).to_have_text(["[::-1]", "print('<b>x</b>')  # **그대로**"])
    expect(answer(page).locator("b")).to_have_count(0)
    expect(answer(page).locator(".text")).not_to_contain_text("```")


def test_a_torn_code_fence_is_left_as_it_came(page: Page) -> None:
    serve_events(page, sse(("1-0", "final", DONE | {"reply": "예입니다.\n```python\nprint(1)"})))
    ask(page, "어떻게 쓰나요?")
    expect_status(page, "done")
    expect(answer(page).locator(".text")).to_contain_text("```python")
