"""A GGUF file of some kilobytes with a small byte-level vocabulary, for tests that need a file and no model."""

from pathlib import Path

from dure import gguf
from dure.gguf import Tensor, TensorType, Value, ValueType
from dure_workshop.trim.bpe import TO_CHARACTER
from dure_workshop.trim.choice import CONTROL, NORMAL, UNUSED

WORDS = ["he", "ll", "hell", "hello", " hello", "두", "레", "두레", "漢", "漢字", "か", "Ж", "123", "。"]
NUM_UNUSED = 6


def vocabulary() -> tuple[list[str], list[str], list[int]]:
    """Tokens, merges and kinds: 256 bytes, words in several scripts, two control tokens, unused rows."""
    tokens = [TO_CHARACTER[byte] for byte in range(256)]
    merges: list[str] = []
    for word in WORDS:
        pieces = [TO_CHARACTER[byte] for byte in word.encode()]
        while len(pieces) > 1:
            if (pair := f"{pieces[0]} {pieces[1]}") not in merges:
                merges.append(pair)
                tokens.append(pieces[0] + pieces[1])
            pieces[:2] = [pieces[0] + pieces[1]]
    kinds = [NORMAL] * len(tokens) + [CONTROL, CONTROL] + [UNUSED] * NUM_UNUSED
    return [*tokens, "<|end|>", "<|begin|>", *(f"[PAD{n}]" for n in range(NUM_UNUSED))], merges, kinds


def write(path: Path) -> None:
    tokens, merges, kinds = vocabulary()
    values = {
        "general.architecture": Value(ValueType.STRING, "qwen2"),
        "qwen2.block_count": Value(ValueType.UINT32, 1),
        "tokenizer.ggml.model": Value(ValueType.STRING, "gpt2"),
        "tokenizer.ggml.pre": Value(ValueType.STRING, "qwen2"),
        "tokenizer.ggml.tokens": Value(ValueType.ARRAY, tokens, ValueType.STRING),
        "tokenizer.ggml.merges": Value(ValueType.ARRAY, merges, ValueType.STRING),
        "tokenizer.ggml.token_type": Value(ValueType.ARRAY, kinds, ValueType.INT32),
        "tokenizer.ggml.eos_token_id": Value(ValueType.UINT32, tokens.index("<|end|>")),
    }
    shape = (32, len(tokens))
    tensors = gguf.placed([Tensor("token_embd.weight", shape, TensorType.Q8_0, 0)], gguf.alignment_of(values))
    rows = b"".join(number.to_bytes(2, "little") * 17 for number in range(len(tokens)))
    path.write_bytes(gguf.head(values, tensors) + rows)
