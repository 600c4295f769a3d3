"""How byte-level BPE vocabularies split text before they merge, by the name that GGUF files give (tokenizer.ggml.pre).

Source: the tokenizer.json of each family, as llama.cpp's llama-vocab.cpp names them.
"""

from dure.gguf import Gguf

_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT_FORMS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
PATTERNS = {
    "qwen2": rf"{_SHORT_FORMS}|{_LETTERS}|\p{{N}}|{_REST}",
    "llama-bpe": rf"{_SHORT_FORMS}|{_LETTERS}|\p{{N}}{{1,3}}|{_REST}",
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}


# tokenizer.ggml.model of SentencePiece's BPE, which does not split before it merges.
SENTENCEPIECE = "llama"


def is_known(source: Gguf) -> bool:
    """Whether this file's vocabulary is SentencePiece's, or a byte-level BPE whose splitting stands above."""
    kind, pre = source.get("tokenizer.ggml.model"), source.get("tokenizer.ggml.pre", "")
    return kind == SENTENCEPIECE or (kind == "gpt2" and pre in PATTERNS)
