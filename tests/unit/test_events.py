from dure.events import Event, EventType


def test_a_start_event_has_no_text_and_a_sentence_no_worker() -> None:
    start = Event.from_entry("1-0", {"type": "start", "attempt": "2", "worker": "일꾼"})
    assert start == Event("1-0", EventType.START, 2, worker="일꾼")
    sentence = Event.from_entry("2-0", {"type": "sentence", "attempt": "2", "seq": "7", "text": "두레 \n"})
    # An older worker's, which edited nothing.
    assert sentence == Event("2-0", EventType.SENTENCE, 2, seq=7, text="두레 \n", replaces=4)
    edited = Event.from_entry("2-0", {"type": "sentence", "attempt": "2", "seq": "7", "text": "두레", "replaces": "9"})
    assert edited.replaces == 9


def test_a_final_event_may_have_no_attempt() -> None:
    final = Event.from_entry("3-0", {"type": "final", "state": "cancelled"})
    assert final == Event("3-0", EventType.FINAL, 0, state="cancelled")


def test_an_event_of_an_unknown_type_is_not_taken_for_another() -> None:
    assert Event.from_entry("1-0", {"type": "pause"}) == Event("1-0", EventType.OTHER, 0)
