"""The real 0.5B with 32,000 of its 151,936 tokens: what must be as before, and what must be gone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure import catalog, gguf
from dure.byte_tokens import as_bytes, as_token
from dure.errors import ModelCorrupt, ModelError, SettingsError
from dure.gguf import CONTROL, Gguf
from dure.job import Message, Sampling
from dure_worker.engines import Engine, GenerateRequest
from dure_workshop.trim.bpe import Bpe
from dure_workshop.trim.choice import PAD_TO, Script, script_of
from dure_workshop.trim.gguf_file import trim, vocabulary
from dure_workshop.trim.text import Encoder, segmenter_of
from dure_workshop.trim.vocabulary import NotTrimmable

pytestmark = pytest.mark.weights

MODEL = catalog.CATALOG["qwen2.5-coder-0.5b-korean"]
DATA = Path(__file__).parents[3] / "shared" / "data"

KOREAN = """
안녕하세요, 반갑습니다. 저는 강원도 정선에서 감자와 옥수수를 기르는 농부입니다.
어제는 비가 억수같이 쏟아져서 밭고랑에 물이 찼는데, 다행히 둑은 무너지지 않았어요!
“두레가 뭐예요?”라고 묻는 아이에게 할머니는 ‘품앗이보다 큰 모임’이라고 하셨다.
국회는 2025년 예산안 673조 3,000억 원을 본회의에서 의결했다고 밝혔다.
ㅋㅋㅋ 진짜 웃기다ㅠㅠ 그건 좀 아니지 않냐? 암튼 이따 봐~
리눅스에서 파일 권한을 바꾸려면 chmod 명령을 쓰면 됩니다. 예: `chmod 644 config.yaml`
제3조(정의) ① 이 법에서 “전자문서”란 정보처리시스템에 의하여 전자적 형태로 작성된 것을 말한다.
서울특별시 종로구 세종대로 209, 전화 02-2100-3399, 누리집 www.korea.kr
쀍, 뷁, 햏, 찦차, 펲시 같은 드문 음절도 빠짐없이 읽고 쓸 수 있어야 합니다.
기온은 -3.5℃, 습도는 42%이며 바람은 북서쪽에서 초속 7m로 붑니다…
""".strip().splitlines()
ENGLISH = """
Hello, how are you today? I would like to know what the weather is like in Seoul.
The function returns a list of strings. If the file does not exist, it returns an error.
Please write a short letter to the city office and ask for a new water meter.
""".strip().splitlines()


@pytest.fixture(scope="module")
def original(small_model: Path) -> Gguf:
    return gguf.read(small_model)


@pytest.fixture(scope="module")
def trimmed(original: Gguf, tmp_path_factory: pytest.TempPathFactory) -> Gguf:
    recipe = MODEL.made_by
    assert recipe is not None
    path = tmp_path_factory.mktemp("trim") / "model.gguf"
    trim(original, path, set(recipe.languages), recipe.size)
    return gguf.read(path)


@pytest.fixture(scope="module")
def before(original: Gguf) -> Encoder:
    return segmenter(original)


@pytest.fixture(scope="module")
def after(trimmed: Gguf) -> Encoder:
    return segmenter(trimmed)


def segmenter(found: Gguf) -> Encoder:
    made = segmenter_of(vocabulary(found), "qwen2")
    assert made is not None
    return made


def words(found: Gguf, segmenter: Encoder, text: str) -> list[str]:
    tokens = found.get("tokenizer.ggml.tokens")
    return [tokens[number] for number in segmenter.encode(text)]


def test_the_same_bytes_come_out_as_the_catalogue_names(trimmed: Gguf) -> None:
    """Else a fetched model could not be told from a damaged one."""
    assert trimmed.path.stat().st_size == MODEL.num_bytes
    assert catalog.sha256_of(trimmed.path) == MODEL.sha256


def test_only_rows_of_the_vocabulary_are_gone(original: Gguf, trimmed: Gguf) -> None:
    assert list(trimmed.tensors) == list(original.tensors)
    num_tokens = len(trimmed.get("tokenizer.ggml.tokens"))
    assert num_tokens == 32_000
    assert num_tokens % PAD_TO == 0
    for name, tensor in original.tensors.items():
        if name in {"token_embd.weight", "output.weight"}:
            assert trimmed.tensors[name].num_rows == num_tokens
        else:
            new = b"".join(gguf.rows(trimmed, trimmed.tensors[name]))
            assert new == b"".join(gguf.rows(original, tensor))


def test_each_kept_token_has_its_own_row(original: Gguf, trimmed: Gguf) -> None:
    ids = {token: number for number, token in enumerate(original.get("tokenizer.ggml.tokens"))}
    tokens = trimmed.get("tokenizer.ggml.tokens")
    old, new = original.tensors["output.weight"], trimmed.tensors["output.weight"]
    for number in range(0, len(tokens), 997):
        row = b"".join(gguf.rows(trimmed, new, [number]))
        assert row == b"".join(gguf.rows(original, old, [ids[tokens[number]]]))


def test_no_token_is_han_or_kana_and_all_of_hangul_and_the_chat_roles_are_there(trimmed: Gguf) -> None:
    tokens, kinds = trimmed.get("tokenizer.ggml.tokens"), trimmed.get("tokenizer.ggml.token_type")
    found = vocabulary(trimmed)
    scripts = [script_of(found.meaning(number), kind) for number, kind in enumerate(found.kinds)]
    assert Script.HAN_KANA not in scripts
    assert Script.UNUSED not in scripts
    roles = {"<|im_start|>", "<|im_end|>", "<|endoftext|>"}
    assert roles <= {token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL}
    for key, token in [("eos", "<|im_end|>"), ("bos", "<|endoftext|>"), ("padding", "<|endoftext|>")]:
        assert tokens[trimmed.get(f"tokenizer.ggml.{key}_token_id")] == token


@pytest.mark.parametrize("text", [*KOREAN, *ENGLISH])
def test_korean_and_english_are_segmented_as_before(
    original: Gguf, trimmed: Gguf, before: Encoder, after: Encoder, text: str
) -> None:
    assert words(trimmed, after, text) == words(original, before, text)


def test_nearly_all_of_held_out_korean_is_segmented_as_before(
    original: Gguf, trimmed: Gguf, before: Encoder, after: Encoder
) -> None:
    """Text that had no part in the choice. What differs names foreign things: fewer than one sentence in 50."""
    sentences = DATA / "ud-kaist-dev" / "dev.txt"
    if not sentences.is_file():
        pytest.skip("the development data are not beside this checkout")
    lines = sentences.read_text("utf-8").splitlines()
    same = sum(words(trimmed, after, line) == words(original, before, line) for line in lines)
    assert same / len(lines) > 0.98


def test_hanja_in_brackets_can_still_be_read_and_written(trimmed: Gguf, after: Encoder) -> None:
    text = "한자(漢字)로 두레는 社라고도 썼다."
    tokens = [as_bytes(token) or b"" for token in words(trimmed, after, text)]
    assert b"".join(tokens).decode() == text


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.text(max_size=60))
def test_any_unicode_text_round_trips(trimmed: Gguf, after: Encoder, text: str) -> None:
    assert b"".join(as_bytes(token) or b"" for token in words(trimmed, after, text)).decode() == text


@pytest.fixture(scope="module")
def engines(original: Gguf, trimmed: Gguf) -> Iterator[tuple[Engine, Engine]]:
    from dure_worker.engines.llama import LlamaEngine

    found = [LlamaEngine(model.path, "m", num_slots=1, context=512, num_threads=2) for model in (original, trimmed)]
    yield found[0], found[1]
    for engine in found:
        engine.close()


@pytest.mark.parametrize(
    "question", ["두레가 무엇인지 설명해 주세요.", "파이썬에서 리스트를 정렬하는 방법은?", "What is a village?"]
)
def test_the_runtime_reads_a_prompt_and_answers_as_before(
    trimmed: Gguf, engines: tuple[Engine, Engine], question: str
) -> None:
    """Greedy: the same tokens, until the original takes one that is gone."""
    messages = [Message("system", "한국어로 짧게 답합니다."), Message("user", question)]
    request = GenerateRequest("r", messages, 16, sampling=Sampling(temperature=0, repetition_penalty=1.0))
    old, new = engines
    assert new.count_tokens(messages) == old.count_tokens(messages)
    said = [token.text for token in new.generate(request) if token.text]
    wanted = [token.text for token in old.generate(request) if token.text]
    num_same = next((n for n, (a, b) in enumerate(zip(said, wanted, strict=False)) if a != b), 16)
    assert num_same >= 5
    if num_same < min(len(said), len(wanted)):
        assert as_token(wanted[num_same].encode()) not in trimmed.get("tokenizer.ggml.tokens")


def test_a_size_too_small_for_korean_is_refused_and_nothing_is_written(original: Gguf, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="choose --size"):
        trim(original, tmp_path / "m.gguf", {"korean"}, 1024)
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_written_is_named(original: Gguf, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be written"):
        trim(original, tmp_path / "no" / "such" / "m.gguf", {"korean"}, 16_384)


def test_a_vocabulary_that_does_not_fit_its_embeddings_is_named(original: Gguf) -> None:
    values = dict(original.values)
    key = "tokenizer.ggml.tokens"
    values[key] = gguf.Value(values[key].type, values[key].value[:-1], values[key].item_type)
    broken = Gguf(original.path, values, original.tensors, original.data_start)
    with pytest.raises(ModelCorrupt, match="rows for 151935 tokens"):
        vocabulary(broken)


def test_a_vocabulary_of_another_kind_is_named(original: Gguf) -> None:
    key = "tokenizer.ggml.model"
    values = original.values | {key: gguf.Value(gguf.ValueType.STRING, "bert")}
    with pytest.raises(NotTrimmable, match="of kind bert"):
        vocabulary(Gguf(original.path, values, original.tensors, original.data_start))


def test_the_segmenter_agrees_with_the_runtime(original: Gguf, before: Encoder, engines: tuple[Engine, Engine]) -> None:
    """The proofs above stand on it: the same number of tokens for a text, template aside."""
    template = engines[0].count_tokens([Message("system", "가"), Message("user", "가")])
    one = len(before.encode("가"))
    for text in [*KOREAN, *ENGLISH]:
        counted = engines[0].count_tokens([Message("system", "가"), Message("user", text)])
        assert counted - template == len(before.encode(text)) - one, text
    assert isinstance(vocabulary(original), Bpe)
