"""GGUF files of some kilobytes with small vocabularies, for tests that need a file and no model."""

import random
import tempfile
from pathlib import Path

from dure import gguf
from dure.byte_tokens import TO_CHARACTER
from dure.gguf import BYTE, CONTROL, NORMAL, UNUSED, USER_DEFINED, Tensor, TensorType, Value, ValueType

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


# Merges of a SentencePiece vocabulary, best first. "lo" before "hel" and "두레" only through "두레" of two characters.
MERGED = ["ll", "he", "lo", "hell", "hello", "▁hello", "두레", "▁두레", "레박", "漢字", "ЖЖ", "12", "123", "..", "▁("]
CHARACTERS = [*map(chr, range(0x21, 0x7F)), "▁", "두", "레", "박", "漢", "字", "Ж", "。"]


def spm_vocabulary() -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and types: roles, one unused, tokens found whole, bytes, merges, characters."""
    roles = ["<pad>", "<eos>", "<bos>", "<unused7>", "<start_of_turn>"]
    whole = ["\n", "\n\n", "  ", "<b>"]
    tokens = [*roles, *whole, *(f"<0x{byte:02X}>" for byte in range(256)), *MERGED, *CHARACTERS]
    num_merged = len(MERGED) + len(CHARACTERS)
    types = [CONTROL] * len(roles) + [USER_DEFINED] * len(whole) + [BYTE] * 256 + [NORMAL] * num_merged
    scores = [-1000.0] * (len(tokens) - num_merged) + [-float(rank) for rank in range(num_merged)]
    return tokens, scores, types


def write(path: Path) -> None:
    tokens, merges, kinds = vocabulary()
    values = {
        "tokenizer.ggml.model": Value(ValueType.STRING, "gpt2"),
        "tokenizer.ggml.pre": Value(ValueType.STRING, "qwen2"),
        "tokenizer.ggml.merges": Value(ValueType.ARRAY, merges, ValueType.STRING),
        "tokenizer.ggml.eos_token_id": Value(ValueType.UINT32, tokens.index("<|end|>")),
    }
    _write(path, tokens, kinds, values)


def write_spm(path: Path, *, without: str = "", num_scores: int | None = None) -> None:
    """without: a token that is missing. num_scores: of so many tokens only."""
    rows = [row for row in zip(*spm_vocabulary(), strict=True) if row[0] != without]
    tokens, scores, types = (list(column) for column in zip(*rows, strict=True))
    values = {
        "tokenizer.ggml.model": Value(ValueType.STRING, "llama"),
        "tokenizer.ggml.scores": Value(ValueType.ARRAY, scores[:num_scores], ValueType.FLOAT32),
        "tokenizer.ggml.add_space_prefix": Value(ValueType.BOOL, value=False),
        "tokenizer.ggml.bos_token_id": Value(ValueType.UINT32, tokens.index("<bos>")),
        "tokenizer.ggml.eos_token_id": Value(ValueType.UINT32, tokens.index("<eos>")),
        "tokenizer.ggml.padding_token_id": Value(ValueType.UINT32, tokens.index("<pad>")),
        "tokenizer.ggml.eot_token_id": Value(ValueType.UINT32, tokens.index("<start_of_turn>")),
    }
    _write(path, tokens, types, values)


def padded(num_bytes: int) -> bytes:
    """A whole file of that size: behind the last tensor lies what nobody reads."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        write(path)
        head = path.read_bytes()
    return head + random.Random(7).randbytes(num_bytes - len(head))


def _write(path: Path, tokens: list[str], kinds: list[int], vocabulary_values: dict[str, Value]) -> None:
    """Embeddings only, as where the output is tied to them; each row tells its token's number."""
    values = {
        "general.architecture": Value(ValueType.STRING, "qwen2"),
        "qwen2.block_count": Value(ValueType.UINT32, 1),
        "qwen2.embedding_length": Value(ValueType.UINT32, 32),
        "qwen2.attention.head_count": Value(ValueType.UINT32, 2),
        "qwen2.feed_forward_length": Value(ValueType.UINT32, 64),
        "tokenizer.ggml.tokens": Value(ValueType.ARRAY, tokens, ValueType.STRING),
        "tokenizer.ggml.token_type": Value(ValueType.ARRAY, kinds, ValueType.INT32),
        **vocabulary_values,
    }
    shape = (32, len(tokens))
    tensors = gguf.placed([Tensor("token_embd.weight", shape, TensorType.Q8_0, 0)], gguf.alignment_of(values))
    rows = b"".join(number.to_bytes(2, "little") * 17 for number in range(len(tokens)))
    path.write_bytes(gguf.head(values, tensors) + rows)
