"""The real Gemma 3 270M with 32,000 of its 262,144 SentencePiece tokens."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import xllamacpp
from hypothesis import given, settings
from hypothesis import strategies as st

from dure import catalog, gguf, memory_plan
from dure.gguf import CONTROL, Gguf
from dure.known_models import CATALOGUE_SHAPES
from dure_workshop.trim.choice import Script, script_of
from dure_workshop.trim.gguf_file import trim, vocabulary
from dure_workshop.trim.spm import Spm

pytestmark = pytest.mark.weights

MODEL = catalog.CATALOG["gemma-3-270m-korean"]
BASE = catalog.CATALOG["gemma-3-270m-q4_k_m"]
HELD_OUT = Path(__file__).parents[3] / "shared" / "data" / "ud-kaist-dev" / "dev.txt"

KOREAN = """
안녕하세요, 반갑습니다. 저는 강원도 정선에서 감자와 옥수수를 기르는 농부입니다.
“두레가 뭐예요?”라고 묻는 아이에게 할머니는 ‘품앗이보다 큰 모임’이라고 하셨다.
국회는 2025년 예산안 673조 3,000억 원을 본회의에서 의결했다고 밝혔다.
ㅋㅋㅋ 진짜 웃기다ㅠㅠ 그건 좀 아니지 않냐? 암튼 이따 봐~
서울특별시 종로구 세종대로 209, 전화 02-2100-3399, 누리집 www.korea.kr
쀍, 뷁, 햏, 찦차, 펲시 같은 드문 음절도 빠짐없이 읽고 쓸 수 있어야 합니다.
기온은 -3.5℃, 습도는 42%이며 바람은 북서쪽에서 초속 7m로 붑니다…
Please write a short letter to the city office and ask for a new water meter.
""".strip().splitlines()
# What a tokenizer trips over: tokens found whole, runs of spaces, roles as text, bytes, the space mark itself.
ODD = [
    "하나\n\n\n  둘\t<b>굵게</b> 漢字 😀 e\u0301",
    "<unused5> <start_of_turn> <0x0A> foo_bar(3.14)",
    "aaaaaaaa  \u200b ▁ ▁▁a",
    "x" * 40 + "\n" * 40 + " " * 50,
]


@pytest.fixture(scope="module")
def gemma(fetched: Callable[[str], Path]) -> Path:
    return fetched(BASE.name)


@pytest.fixture(scope="module")
def original(gemma: Path) -> Gguf:
    return gguf.read(gemma)


@pytest.fixture(scope="module")
def trimmed(original: Gguf, tmp_path_factory: pytest.TempPathFactory) -> Gguf:
    recipe = MODEL.made_by
    assert recipe is not None
    path = tmp_path_factory.mktemp("trim") / "model.gguf"
    trim(original, path, set(recipe.languages), recipe.size)
    return gguf.read(path)


@pytest.fixture(scope="module")
def before(original: Gguf) -> Spm:
    return spm_of(original)


@pytest.fixture(scope="module")
def after(trimmed: Gguf) -> Spm:
    return spm_of(trimmed)


def spm_of(found: Gguf) -> Spm:
    made = vocabulary(found)
    assert isinstance(made, Spm)
    return made


def words(found: Spm, text: str) -> list[str]:
    return [found.tokens[number] for number in found.encode(text)]


def test_the_same_bytes_and_shape_come_out_as_the_catalogue_names(original: Gguf, trimmed: Gguf) -> None:
    assert (trimmed.path.stat().st_size, catalog.sha256_of(trimmed.path)) == (MODEL.num_bytes, MODEL.sha256)
    for model, found in ((MODEL, trimmed), (BASE, original)):
        assert memory_plan.of_gguf(found)[1] == CATALOGUE_SHAPES[model.name]


def test_no_token_is_han_or_kana_and_all_of_hangul_and_the_roles_are_there(before: Spm, after: Spm) -> None:
    scripts = [script_of(after.meaning(number), kind) for number, kind in enumerate(after.kinds)]
    assert not {Script.HAN_KANA, Script.UNUSED} & set(scripts)
    assert scripts.count(Script.BYTE) == 256
    korean = {token for number, token in enumerate(before.tokens) if is_korean(before, number)}
    assert korean <= set(after.tokens)
    roles = {token for token, kind in zip(after.tokens, after.kinds, strict=True) if kind == CONTROL}
    assert roles == {"<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"}


def is_korean(found: Spm, number: int) -> bool:
    return script_of(found.meaning(number), found.kinds[number]) is Script.KOREAN


def test_each_kept_token_has_its_own_row_and_each_role_its_own_id(
    original: Gguf, trimmed: Gguf, before: Spm, after: Spm
) -> None:
    old, new = original.tensors[gguf.EMBEDDING], trimmed.tensors[gguf.EMBEDDING]
    for number in range(0, len(after.tokens), 997):
        row = b"".join(gguf.rows(trimmed, new, [number]))
        assert row == b"".join(gguf.rows(original, old, [before.ids[after.tokens[number]]]))
    for role, token in [("bos", "<bos>"), ("eos", "<eos>"), ("unknown", "<unk>"), ("padding", "<pad>")]:
        assert after.tokens[trimmed.get(f"tokenizer.ggml.{role}_token_id")] == token


def test_nearly_all_of_held_out_korean_is_segmented_as_before(before: Spm, after: Spm) -> None:
    """Text that had no part in the choice. What differs names foreign things or Han: fewer than one sentence in 50."""
    if not HELD_OUT.is_file():
        pytest.skip("the development data are not beside this checkout")
    lines = HELD_OUT.read_text("utf-8").splitlines()
    assert sum(words(after, line) == words(before, line) for line in lines) / len(lines) > 0.98


@pytest.mark.parametrize("text", KOREAN)
def test_korean_and_english_are_segmented_as_before(before: Spm, after: Spm, text: str) -> None:
    assert words(after, text) == words(before, text)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(text=st.text(max_size=60))
def test_any_unicode_text_round_trips(after: Spm, text: str) -> None:
    meanings = [after.meaning(number) or after.tokens[number].encode() for number in after.encode(text)]
    assert b"".join(meanings).decode() == text.replace("▁", " ")


@pytest.fixture(scope="module")
def runtimes(original: Gguf, trimmed: Gguf) -> list["Runtime"]:
    return [Runtime(original), Runtime(trimmed)]


class Runtime:
    """llama.cpp's own server, asked over its loopback listener."""

    def __init__(self, model: Gguf) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(model.path)
        params.n_ctx, params.n_parallel, params.verbosity = 512, 1, -1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
        self._server = xllamacpp.Server(params)

    def ask(self, path: str, **body: object) -> dict[str, object]:
        answer: dict[str, object] = httpx.post(f"{self._server.listening_address}{path}", json=body, timeout=60).json()
        return answer


def test_the_segmenter_agrees_with_the_runtime_token_by_token(
    before: Spm, after: Spm, runtimes: list["Runtime"]
) -> None:
    """The proofs above stand on it."""
    for found, runtime in zip((before, after), runtimes, strict=True):
        for text in [*KOREAN, *ODD]:
            assert runtime.ask("/tokenize", content=text, parse_special=False)["tokens"] == found.encode(text), text


@pytest.mark.parametrize("prompt", ["대한민국의 수도는", "옛날 옛적에 호랑이가"])
def test_the_runtime_goes_on_as_before(runtimes: list["Runtime"], prompt: str) -> None:
    """Greedy: the same text."""
    said = [
        runtime.ask("/completion", prompt=prompt, n_predict=12, temperature=0, top_k=1)["content"]
        for runtime in runtimes
    ]
    assert said[0] == said[1]
    assert any("가" <= letter <= "힣" for letter in str(said[0]))
