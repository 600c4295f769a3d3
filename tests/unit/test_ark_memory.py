"""What the ark engine keeps of a conversation: in int8, beyond its slot's end, and on disk."""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny_chat
from asking import ask
from dure.errors import ContextOverflow
from dure.job import Message
from dure.keys import KEEP_CONVERSATION_S
from dure_worker.engines import GenerateRequest, Token

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")

from dure import gguf  # noqa: E402
from dure_worker.engines.ark.attention import Segment  # noqa: E402
from dure_worker.engines.ark.decoder import Decoder  # noqa: E402
from dure_worker.engines.ark.engine import ArkEngine  # noqa: E402
from dure_worker.engines.ark.kv_cache import KvCache  # noqa: E402
from dure_worker.engines.ark.kv_store import KvStore  # noqa: E402
from dure_worker.engines.ark.loading import load  # noqa: E402

CONTEXT = 256
LONG = "1 + 1 = 2, 두레 " * 10

Make = Callable[..., ArkEngine]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def make(weights: Path, request: pytest.FixtureRequest) -> Make:
    def made(**changes: object) -> ArkEngine:
        engine = ArkEngine(weights, "tiny", **({"num_slots": 1, "context": CONTEXT} | changes))  # type: ignore[arg-type]
        request.addfinalizer(engine.close)
        return engine

    return made


@pytest.fixture
def num_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each pass."""
    found: list[int] = []
    forward = Decoder.forward

    def spy(self: Decoder, segments: list[Segment], cache: KvCache) -> torch.Tensor:
        found.append(sum(len(segment.ids) for segment in segments))
        return forward(self, segments, cache)

    monkeypatch.setattr(Decoder, "forward", spy)
    return found


def answer(engine: ArkEngine, request: GenerateRequest) -> tuple[str, Token]:
    tokens = list(engine.generate(request))
    return "".join(token.text for token in tokens), tokens[-1]


# In int8


def test_int8_cells_are_near_and_take_little_more_than_half(weights: Path) -> None:
    decoder = load(gguf.read(weights))
    ids = [(number * 37) % 250 for number in range(96)]
    caches = [KvCache(decoder.config, 2, CONTEXT, bits) for bits in (16, 8)]
    plain, small = (decoder.forward([Segment(1, 0, ids)], cache)[0] for cache in caches)
    assert float((plain - small).abs().max() / plain.std()) < 0.1
    sizes = [sum(part.nbytes for part in cache.parts) for cache in caches]
    assert sizes[1] / sizes[0] == (decoder.config.shape.head_dim + 4) / (2 * decoder.config.shape.head_dim)


def test_zeros_and_huge_numbers_are_kept_as_numbers(weights: Path) -> None:
    decoder = load(gguf.read(weights))
    cache = KvCache(decoder.config, 1, CONTEXT, 8)
    shape = (1, 2, decoder.config.shape.kv_heads, decoder.config.shape.head_dim)
    for place, number in enumerate((0.0, 1e-30, 3e6)):
        cache.write(0, torch.tensor([0]), torch.tensor([place]), torch.full(shape, number))
    keys, values = cache.read(0, slice(0, 1), slice(0, 3))
    assert bool(keys.isfinite().all() and values.isfinite().all())
    assert float(keys[0, 0, 2, 0]) == pytest.approx(3e6, rel=0.02)


def test_an_engine_with_int8_cells_answers(make: Make) -> None:
    assert answer(make(kv_bits=8), ask("hello"))[1].usage.completion_tokens > 0


# Beyond the end of a slot


def test_an_answer_outgrows_its_slot_where_asked_to(make: Make) -> None:
    engine = make()
    # Never the end of the text: bias is not needed, this model hardly ever says it.
    ended = answer(engine, ask(LONG, max_tokens=2 * CONTEXT))[1]
    assert ended.finish_reason == "length"
    assert ended.usage.prompt_tokens + ended.usage.completion_tokens == CONTEXT
    text, last = answer(engine, ask(LONG, max_tokens=2 * CONTEXT, overflow="window"))
    assert last.finish_reason == "length"
    assert last.usage.completion_tokens == 2 * CONTEXT
    assert text.startswith(answer(engine, ask(LONG, max_tokens=16))[0])


def test_a_prompt_longer_than_its_slot_is_refused_or_loses_its_middle(make: Make) -> None:
    engine = make()
    messages = [Message("system", "be kind"), Message("user", LONG * 4)]
    assert engine.count_tokens(messages) > CONTEXT
    with pytest.raises(ContextOverflow):
        answer(engine, ask("a", messages=messages))
    last = answer(engine, ask("b", messages=messages, overflow="window"))[1]
    assert last.usage.prompt_tokens == CONTEXT * 3 // 4
    assert last.usage.completion_tokens == 48


def test_what_is_left_after_forgetting_stands_where_it_would_have_been_read(weights: Path) -> None:
    """The first layer's keys know but their own token and place: turned back, they are those of the new place."""
    decoder = load(gguf.read(weights))
    ids = [(number * 37) % 250 for number in range(96)]
    moved, read = (KvCache(decoder.config, 2, CONTEXT) for _ in range(2))
    decoder.forward([Segment(1, 0, ids)], moved)
    decoder.forget(moved, 1, 4, 30, len(ids))
    decoder.forward([Segment(1, 0, ids[:4] + ids[34:])], read)
    found, wanted = (cache.read(0, slice(1, 2), slice(0, 66))[0].float() for cache in (moved, read))
    assert float((found - wanted).abs().max() / wanted.std()) < 0.03
    stale = moved.read(0, slice(1, 2), slice(30, 96))[0].float()
    assert float((stale - wanted).abs().max() / wanted.std()) > 0.5


def test_what_forgot_is_no_beginning_for_others(make: Make, num_read: list[int]) -> None:
    engine = make()
    turns = [Message("user", LONG)]
    text = answer(engine, ask("a", messages=turns, max_tokens=2 * CONTEXT, overflow="window"))[0]
    num_read.clear()
    answer(engine, ask("b", messages=turns, max_tokens=1))
    assert sum(num_read) >= engine.count_tokens(turns) - 4
    assert text


# On disk


def test_a_conversation_comes_back_from_disk_after_a_restart(make: Make, tmp_path: Path, num_read: list[int]) -> None:
    kept = {"kv_folder": tmp_path / "kv", "kv_disk_mib": 8}
    for kv_bits in (16, 8):
        first = make(kv_bits=kv_bits, **kept)
        wanted = answer(first, ask(LONG))[0]
        first.close()
        second = make(kv_bits=kv_bits, **kept)
        num_read.clear()
        assert answer(second, ask(LONG))[0] == wanted
        assert num_read[0] == 1, "all but the last token came from disk"
        second.close()
    files = list((tmp_path / "kv").glob("*.kv"))
    assert files
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "kv").stat().st_mode) == 0o700


def test_a_conversation_that_lost_its_slot_comes_back(make: Make, tmp_path: Path, num_read: list[int]) -> None:
    engine = make(kv_folder=tmp_path / "kv", kv_disk_mib=8)
    wanted = answer(engine, ask(LONG))[0]
    answer(engine, ask("hello"))
    num_read.clear()
    assert answer(engine, ask(LONG))[0] == wanted
    assert num_read[0] == 1


def test_nothing_is_written_unless_asked_for(make: Make, tmp_path: Path) -> None:
    engine = make(kv_folder=tmp_path / "kv")
    answer(engine, ask(LONG))
    engine.close()
    assert not (tmp_path / "kv").exists()


def store(folder: Path, limit_bytes: int = 1 << 20, model: str = "tiny") -> KvStore:
    return KvStore(folder, limit_bytes, model)


def parts(number: int) -> list["torch.Tensor"]:
    return [torch.full((2, 2, 1, 80, 16), number, dtype=torch.int8)]


def ids(number: int, count: int = 80) -> list[int]:
    return [number] * count


def test_a_damaged_file_is_deleted_and_not_used(tmp_path: Path) -> None:
    store(tmp_path).save(ids(1), parts(1))
    [path] = tmp_path.glob("*.kv")
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    again = store(tmp_path)
    num_stored, found = again.longest(ids(1))
    assert (num_stored, found) == (80, path)
    assert again.load(path, 80) is None
    assert not path.exists()
    assert again.longest(ids(1)) == (0, None)
    path.write_bytes(b"cut")
    assert store(tmp_path).longest(ids(1)) == (0, None)


def test_what_another_model_wrote_is_not_read(tmp_path: Path) -> None:
    store(tmp_path).save(ids(1), parts(1))
    assert store(tmp_path, model="other").longest(ids(1)) == (0, None)


def test_the_limit_holds_and_the_longest_unused_goes(tmp_path: Path) -> None:
    size = 80 * 16 * 4
    here = store(tmp_path, limit_bytes=4 * size)
    for number in range(3):
        here.save(ids(number), parts(number))
        [path] = [entry for entry in tmp_path.glob("*.kv") if here.longest(ids(number))[1] == entry]
        os.utime(path, (time.time() - 100 + number,) * 2)
    first = here.longest(ids(0))[1]
    assert first is not None
    here.load(first, 80)
    here.save(ids(3), parts(3))
    here.save(ids(4), parts(4))
    assert sum(path.stat().st_size for path in tmp_path.glob("*.kv")) <= 4 * size
    assert here.longest(ids(0))[0] == 80
    assert here.longest(ids(1)) == (0, None)


def test_none_outlives_its_conversation(tmp_path: Path) -> None:
    store(tmp_path).save(ids(1), parts(1))
    [path] = tmp_path.glob("*.kv")
    os.utime(path, (time.time() - KEEP_CONVERSATION_S - 1,) * 2)
    assert store(tmp_path).longest(ids(1)) == (0, None)
    assert not path.exists()


def test_a_longer_conversation_replaces_its_beginning(tmp_path: Path) -> None:
    here = store(tmp_path)
    here.save(ids(1), parts(1))
    here.save([*ids(1), 2], parts(1))
    assert len(list(tmp_path.glob("*.kv"))) == 1
    here.save(ids(1), parts(1))
    assert here.longest([*ids(1), 2])[0] == 81
    here.save(ids(5, 10), parts(5))
    assert here.longest(ids(5)) == (0, None), "so few are read faster than found"


def test_a_full_disk_loses_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = store(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    here.save(ids(1), parts(1))
    assert here.longest(ids(1)) == (0, None)
    assert not list(tmp_path.iterdir())
