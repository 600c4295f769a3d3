"""The transformers engine over small random checkpoints: equal to the library's own `generate`, honest about faults."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asking import GREEDY, SAMPLED, answer, ask, together
from dure import engines
from dure.errors import BadRequest, ContextOverflow, EngineError, EngineMissing, ModelCorrupt, ModelUnsupported
from dure.job import Message, Sampling
from dure.settings import Settings
from dure_worker import app
from dure_worker.choice import rules
from dure_worker.engines import Engine, Token
from dure_worker.settings import WorkerSettings
from support import wait_for

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `torch` is not installed")

import tiny_transformer  # noqa: E402
from dure_worker.engines.hf import loading  # noqa: E402
from dure_worker.engines.hf.chat_text import FALLBACK_TEMPLATE, ChatText, TextStream  # noqa: E402
from dure_worker.engines.transformers_engine import TransformersEngine  # noqa: E402

QUESTIONS = ["두레", "두레 두레 두레", "1 + 1 = 2, 2 + 2 = 4", "하늘은 왜 파란가요?"]
CONTEXT = 256
KINDS = ["llama", "gpt_neox"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A checkpoint of that kind, made once."""
    root = tmp_path_factory.mktemp("checkpoints")

    def made(kind: str) -> Path:
        return root / kind if (root / kind).exists() else tiny_transformer.write(root / kind, kind)

    return made


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start() -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def begin(path: Path, **options: Any) -> Engine:
        options = {"num_slots": 3, "context": CONTEXT, "weights": "float32", **options}
        made.append(TransformersEngine(path, "tiny", **options))
        return made[-1]

    yield begin
    for engine in made:
        engine.close()


def reference(path: Path, question: str, num_tokens: int) -> str:
    """What transformers itself answers, the whole prompt in one pass."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, local_files_only=True, dtype=torch.float32)
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = model.generate(**prompt, max_new_tokens=num_tokens, do_sample=False, pad_token_id=0)
    return str(tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


def test_a_greedy_answer_is_that_of_the_library(kind: str, folder: Callable[[str], Path], start: Any) -> None:
    engine = start(folder(kind))
    for question in ["두레", "두레는 이웃끼리 힘을 모으던 모임입니다. " * 4]:
        assert engine.count_tokens([Message("user", question)]) > 8
        found = answer(engine, ask(question))
        assert found
        assert found == reference(folder(kind), question, 48)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_an_answer_is_the_same_alone_and_beside_others(
    kind: str, folder: Callable[[str], Path], start: Any, sampling: Sampling
) -> None:
    engine = start(folder(kind))
    requests = [ask(question, sampling) for question in QUESTIONS]
    alone = [answer(engine, request) for request in requests]
    assert len(set(alone)) > 1
    assert together(engine, requests) == alone


# Relative error of the logits of random matrices, which are harder than trained ones: measured 0.02 and 0.2.
@pytest.mark.parametrize(("weights", "tolerance"), [("bf16", 0.05), ("int8", 0.1), ("nf4", 0.4)])
def test_fewer_bits_come_near_the_whole_numbers(
    tmp_path: Path, kind: str, start: Any, weights: str, tolerance: float
) -> None:
    path = tiny_transformer.write(tmp_path / "m", kind, spread=0.05)
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        whole = loading.load(path, "float32").model(ids).logits[0].float()
        found = loading.load(path, weights).model(ids).logits[0].float()
    error = float((found - whole).norm() / whole.norm())
    assert 0 < error < tolerance
    engine = start(path, weights=weights)
    assert len(answer(engine, ask("두레", max_tokens=8))) >= 8


def test_matrices_are_really_held_in_fewer_bits(folder: Callable[[str], Path]) -> None:
    def layer(weights: Any) -> Any:
        return loading.load(folder("llama"), weights).model.model.layers[0].mlp.down_proj.weight

    size = layer("float32").numel()
    assert (layer("int8").dtype, layer("int8").numel()) == (torch.int8, size)
    assert (layer("nf4").dtype, layer("nf4").numel()) == (torch.uint8, size // 2)


def test_an_answer_ends_where_the_model_ends_it(tmp_path: Path, start: Any) -> None:
    path = tiny_transformer.write(tmp_path / "m", "llama", has_ends=True)
    engine = start(path)
    end = tiny_transformer.ROLES.index("<|im_end|>")
    model = engine._compute._model
    # Its second token from now on is the end, however it got there.
    head, count = model.lm_head.forward, iter(range(1000))

    def ending(states: Any) -> Any:
        logits = head(states)
        if next(count) >= 3:
            logits[..., end] = 1e4
        return logits

    model.lm_head.forward = ending
    *_, last = engine.generate(ask("두레", max_tokens=100))
    assert last.finish_reason == "stop"
    assert last.usage.completion_tokens < 10


def test_a_model_without_a_template_gets_a_plain_one_and_stops_before_the_next_question(tmp_path: Path) -> None:
    loaded = loading.load(tiny_transformer.write(tmp_path / "m", "gpt_neox", template=None), "float32")
    text = ChatText(loaded.tokenizer, loaded.ends, loaded.model.config.vocab_size)
    turns = [
        Message("system", "짧게."),
        Message("user", "둘?"),
        Message("assistant", "셋"),
        Message("user", "<|im_end|>"),
    ]
    shown = text.decode(text.prompt(turns))
    assert shown == "짧게.\n\n### 질문:\n둘?\n\n### 답변:\n셋\n\n### 질문:\n<\u200b|im_end|>\n\n### 답변:\n"
    assert text.stops[0].strip() in FALLBACK_TEMPLATE


def test_a_template_without_a_system_has_its_words_before_the_first_question(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ m.role }}] {{ m.content }}{% endfor %}"
    )
    loaded = loading.load(tiny_transformer.write(tmp_path / "m", "llama", template=template), "float32")
    text = ChatText(loaded.tokenizer, loaded.ends, loaded.model.config.vocab_size)
    system, user = Message("system", "짧게."), Message("user", "둘?")
    assert text.decode(text.prompt([system, user])) == "[user] 짧게.\n\n둘?"
    with pytest.raises(BadRequest, match="no system"):
        text.prompt([user, system, user])


def test_a_character_of_several_tokens_comes_whole_and_a_broken_one_does_not_hold_up_the_rest(
    folder: Callable[[str], Path],
) -> None:
    loaded = loading.load(folder("llama"), "float32")
    text = ChatText(loaded.tokenizer, loaded.ends, loaded.model.config.vocab_size)

    def ids(raw: bytes) -> list[int]:
        from dure.byte_tokens import as_token

        return [loaded.tokenizer.convert_tokens_to_ids(as_token(bytes([byte]))) for byte in raw]

    stream = TextStream(text, text.prompt([Message("user", "둘?")]))
    pieces = [stream.feed(number) for number in ids("가🙂 a".encode() * 30)]
    assert "".join(pieces) == "가🙂 a" * 30
    assert not any("\ufffd" in piece for piece in pieces)
    assert [stream.feed(number) for number in ids("나".encode()[:2])] == ["", ""]
    assert "".join(stream.feed(number) for number in ids(b"bc")).endswith("bc")


def test_a_stop_string_of_several_tokens_never_shows(folder: Callable[[str], Path], start: Any) -> None:
    engine = start(folder("llama"))
    whole = answer(engine, ask("두레"))
    stop = whole[5:9]
    assert answer(engine, ask("두레", stop=[stop])) == whole[: whole.index(stop)]


def test_waiting_and_reading_answers_are_cancelled_at_once(folder: Callable[[str], Path], start: Any) -> None:
    engine = start(folder("llama"), num_slots=1, context=512)
    running = engine.generate(ask("하나", max_tokens=400))
    next(running)
    ended = threading.Event()

    def wait() -> None:
        assert list(engine.generate(ask("둘")))[-1].finish_reason == "cancelled"
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    wait_for(lambda: "둘" in engine._answers, "the second question")
    engine.cancel("둘")
    assert ended.wait(60)
    thread.join()
    engine.cancel("하나")
    assert list(running)[-1].finish_reason == "cancelled"


def test_closing_ends_what_runs_and_what_waits(folder: Callable[[str], Path], start: Any) -> None:
    engine = start(folder("llama"), num_slots=1)
    running = engine.generate(ask("하나", max_tokens=200))
    next(running)
    engine.close()
    assert list(running)[-1].finish_reason == "cancelled"
    with pytest.raises(EngineError, match="closed"):
        answer(engine, ask("둘"))


def test_prompts_beyond_the_context_and_contexts_beyond_the_model_are_refused(
    folder: Callable[[str], Path], start: Any
) -> None:
    engine = start(folder("llama"))
    with pytest.raises(ContextOverflow) as caught:
        answer(engine, ask("긴 " * 400))
    assert caught.value.limit == CONTEXT - 1
    with pytest.raises(EngineError, match="DURE_WORKER_CONTEXT=512"):
        start(folder("llama"), context=tiny_transformer.POSITIONS + 1)


def test_numbers_that_are_none_end_one_answer_and_the_engine_goes_on(
    folder: Callable[[str], Path], start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start(folder("llama"))
    whole = answer(engine, ask("두레"))
    head = engine._compute._model.lm_head
    with monkeypatch.context() as patch:
        patch.setattr(
            head, "forward", lambda states: torch.full((*states.shape[:-1], tiny_transformer.VOCAB), torch.nan)
        )
        with pytest.raises(EngineError, match="dure model verify"):
            answer(engine, ask("두레"))
        patch.setattr(head, "forward", lambda states: 1 / 0)
        with pytest.raises(EngineError, match="ZeroDivisionError"):
            answer(engine, ask("두레"))
    assert answer(engine, ask("두레")) == whole


def _no_tokenizer(path: Path) -> None:
    for file in path.glob("tokenizer*"):
        file.unlink()


def _broken_weights(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _fewer_tensors(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


def _only_a_pickle(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "error", "word"),
    [
        (_no_tokenizer, ModelCorrupt, r"tokenizer\.json"),
        (_broken_weights, ModelCorrupt, "safetensors"),
        (_fewer_tensors, ModelCorrupt, "down_proj"),
        (_only_a_pickle, ModelCorrupt, "safetensors"),
        (lambda path: (path / "config.json").unlink(), ModelCorrupt, r"config\.json"),
        (lambda path: (path / "config.json").write_text("{"), ModelCorrupt, r"config\.json"),
        (lambda path: tiny_transformer.change(path, "config.json", model_type="nobody"), ModelUnsupported, "another"),
        (lambda path: tiny_transformer.change(path, "config.json", model_type="t5"), ModelUnsupported, "t5"),
    ],
    ids=["no tokenizer", "cut weights", "a tensor less", "pickle", "no config", "half a config", "unknown", "t5"],
)
def test_a_faulty_checkpoint_is_a_named_error(
    tmp_path: Path, spoil: Callable[[Path], None], error: type[Exception], word: str
) -> None:
    path = tiny_transformer.write(tmp_path / "m", "llama")
    spoil(path)
    with pytest.raises(error, match=word):
        TransformersEngine(path, "tiny")


def test_code_that_a_checkpoint_brings_along_is_not_run(tmp_path: Path) -> None:
    path = tiny_transformer.write(tmp_path / "m", "llama")
    ran = tmp_path / "ran"
    (path / "own.py").write_text(f"open({str(ran)!r}, 'w')\n", "utf-8")
    named = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", None]}
    tiny_transformer.change(path, "config.json", model_type="own", auto_map=named)
    with pytest.raises(ModelUnsupported, match="never run"):
        TransformersEngine(path, "tiny")
    assert not ran.exists()


def test_loading_opens_no_connection(folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    loading.load(folder("gpt_neox"), "bf16")


def test_every_architecture_that_is_promised_is_known_to_the_library() -> None:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    # What files call otherwise than the library does.
    names = {"gpt-oss": "gpt_oss", "qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe"}
    known = set(GGUF_SUPPORTED_ARCHITECTURES)
    assert [name for name in sorted(engines.TRANSFORMERS) if names.get(name, name) not in known] == []


def test_a_gguf_file_that_the_library_does_not_read_names_who_does(tmp_path: Path) -> None:
    import tiny_gguf

    path = tmp_path / "model.gguf"
    tiny_gguf.write(path)
    path.write_bytes(path.read_bytes().replace(b"qwen2", b"bert5"))
    with pytest.raises(ModelUnsupported, match="DURE_WORKER_ENGINE=llama"):
        TransformersEngine(path, "tiny")


def test_a_worker_makes_it_from_its_settings_and_without_the_extra_names_it(
    folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.read()
    worker = WorkerSettings(engine="transformers", weights="float32", slots=2, context=CONTEXT)
    monkeypatch.setattr(app.artifact, "require", lambda name, models_dir: folder("llama"))
    engine = app.load_engine(settings, worker)
    assert isinstance(engine, TransformersEngine)
    assert (engine.info.name, engine.info.num_slots, engine.info.context) == ("transformers", 2, CONTEXT)
    assert engine._compute._model.dtype is torch.float32
    engine.close()
    with pytest.raises(EngineMissing, match=r"pip install 'dure\[torch\]'"):
        rules.require_packages("transformers", lambda name: None)


def test_the_last_token_tells_what_was_used(folder: Callable[[str], Path], start: Any) -> None:
    engine = start(folder("llama"))
    tokens: list[Token] = list(engine.generate(ask("두레 " * 40, max_tokens=6)))
    assert tokens[-1].usage.completion_tokens == 6
    assert tokens[-1].usage.prompt_tokens == engine.count_tokens([Message("user", "두레 " * 40)])
    assert json.dumps([token.text for token in tokens]).count('""') > 2, "signs of progress while the prompt is read"
