"""The vocabulary in a checkpoint's tokenizer.json, and that file again with fewer tokens.

Source: huggingface/tokenizers, whose serialized form this is; byte-level BPE only.
"""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from dure.errors import ModelCorrupt
from dure.gguf import CONTROL, NORMAL, UNUSED, USER_DEFINED
from dure_workshop.trim.bpe import Bpe
from dure_workshop.trim.text import name_of
from dure_workshop.trim.vocabulary import NotTrimmable, check_bytes

Json = dict[str, Any]
NewIds = dict[int, int]


@dataclass(frozen=True)
class Tokenizer:
    """pre: the name of its pattern, as text.py has it; "unknown" where it is none of those."""

    content: Json
    bpe: Bpe
    pre: str


def parse(content: Json, path: Path, num_rows: int) -> Tokenizer:
    """The rows of the embedding beyond the tokens are unused. Raises NotTrimmable, ModelCorrupt."""
    try:
        _check_kind(content, path)
        bpe = _bpe(content, path, num_rows)
        pre = _pre(content)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise ModelCorrupt(f"{path} is no whole tokenizer.json: take it from its source again") from None
    bpe.check(str(path))
    check_bytes(bpe, str(path))
    return Tokenizer(content, bpe, pre)


def _check_kind(content: Json, path: Path) -> None:
    model = content["model"]
    is_byte_level = "ByteLevel" in {step["type"] for step in _steps(content.get("pre_tokenizer"), "pretokenizers")}
    if model.get("type", "BPE") != "BPE" or model.get("byte_fallback") or not is_byte_level:
        kind = f"{model.get('type')}{' with byte fallback' if model.get('byte_fallback') else ''}"
        raise NotTrimmable(
            f"{path} has a vocabulary of kind {kind}, not byte-level BPE: convert the model to GGUF and trim that file"
        )
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise NotTrimmable(f"{path} marks parts of words: convert the model to GGUF and trim that file")


def _steps(part: Json | None, several: str) -> list[Json]:
    if part is None:
        return []
    return list(part[several]) if part["type"] == "Sequence" else [part]


def _bpe(content: Json, path: Path, num_rows: int) -> Bpe:
    added = {token["content"]: token for token in content.get("added_tokens", [])}
    names: dict[int, str] = {}
    for token, number in chain(content["model"]["vocab"].items(), ((name, each["id"]) for name, each in added.items())):
        if names.setdefault(number, token) != token:
            raise ModelCorrupt(f"{path}: {names[number]!r} and {token!r} are both token {number}: take an intact file")
    if names and max(names) >= num_rows:
        raise ModelCorrupt(f"{path} has a token {max(names)} for {num_rows} rows of embeddings: take files that belong")
    tokens = [names.get(number, f"[PAD{number}]") for number in range(num_rows)]
    types = [_type(added.get(token), is_there=number in names) for number, token in enumerate(tokens)]
    return Bpe(tokens, [_as_text(merge) for merge in content["model"]["merges"]], types)


def _type(added: Json | None, *, is_there: bool) -> int:
    if added is None:
        return NORMAL if is_there else UNUSED
    return CONTROL if added.get("special") else USER_DEFINED


def _as_text(merge: str | list[str]) -> str:
    return merge if isinstance(merge, str) else " ".join(merge)


def _pre(content: Json) -> str:
    steps = _steps(content["pre_tokenizer"], "pretokenizers")
    byte_level = next(step for step in steps if step["type"] == "ByteLevel")
    patterns = [step["pattern"].get("Regex", "") for step in steps if step["type"] == "Split"]
    known_steps = {step["type"] for step in steps} <= {"Split", "ByteLevel"}
    known_normalizers = {step["type"] for step in _steps(content.get("normalizer"), "normalizers")} <= {"NFC"}
    if byte_level.get("add_prefix_space") or not known_steps or not known_normalizers or len(patterns) > 1:
        return "unknown"
    if byte_level.get("use_regex", True):
        return "unknown" if patterns else "gpt-2"
    return (name_of(patterns[0]) if patterns else None) or "unknown"


def trimmed(tokenizer: Tokenizer, new_ids: NewIds) -> Json:
    """The same file for the tokens that stay, under their new ids."""
    content, model = dict(tokenizer.content), dict(tokenizer.content["model"])
    model["vocab"] = {token: new_ids[old] for token, old in model["vocab"].items() if old in new_ids}
    merges = tokenizer.bpe.merges_among(set(new_ids))
    is_text = isinstance(next(iter(model["merges"]), ""), str)
    model["merges"] = merges if is_text else [merge.split(" ") for merge in merges]
    added = content.get("added_tokens", [])
    content["added_tokens"] = [each | {"id": new_ids[each["id"]]} for each in added if each["id"] in new_ids]
    if content.get("padding"):
        content["padding"] = content["padding"] | {"pad_id": new_ids[content["padding"]["pad_id"]]}
    return content | {"model": model, "post_processor": _post_processor(content.get("post_processor"), new_ids)}


def _post_processor(part: Json | None, new_ids: NewIds) -> Json | None:
    """It puts chat roles around a text, by their ids: these are remapped; they stay, being special."""
    if part is None:
        return None
    if part["type"] == "Sequence":
        return part | {"processors": [_post_processor(each, new_ids) for each in part["processors"]]}
    if part["type"] == "TemplateProcessing":
        tokens = part["special_tokens"].items()
        return part | {
            "special_tokens": {name: each | {"ids": [new_ids[old] for old in each["ids"]]} for name, each in tokens}
        }
    ends = {key: [part[key][0], new_ids[part[key][1]]] for key in ("sep", "cls") if key in part}
    return part | ends
