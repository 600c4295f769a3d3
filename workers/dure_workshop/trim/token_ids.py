"""Token ids that a checkpoint's JSON files name, and the same files with new ids."""

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
NewIds = dict[int, int]

# Where a model of several parts describes the one that speaks.
TEXT_PARTS = ("text_config", "llm_config", "language_config")
_SUFFIXES = ("_token_id", "_token_ids", "_token_index")
_LISTS = ("suppress_tokens", "begin_suppress_tokens")


def vocab_size(config: Json) -> int | None:
    found = [part["vocab_size"] for part in (config, *_parts(config)) if isinstance(part.get("vocab_size"), int)]
    return found[0] if found else None


def named(config: Json) -> set[int]:
    """The ids that must stay. What is negative stands for none."""
    own = {number for key, value in config.items() if key.endswith(_SUFFIXES) for number in _ids(value)}
    return own.union(*(named(part) for part in _parts(config)))


def remapped(config: Json, new_ids: NewIds) -> Json:
    """config.json or generation_config.json for the tokens that stay."""
    found = {key: _remapped(key, value, new_ids) for key, value in config.items()}
    return found | {key: remapped(config[key], new_ids) for key in TEXT_PARTS if isinstance(config.get(key), dict)}


def decoder_remapped(tokenizer_config: Json, new_ids: NewIds) -> Json:
    """tokenizer_config.json, whose added_tokens_decoder has ids as keys."""
    if "added_tokens_decoder" not in tokenizer_config:
        return tokenizer_config
    decoder = tokenizer_config["added_tokens_decoder"].items()
    kept = {str(new_ids[int(old)]): token for old, token in decoder if int(old) in new_ids}
    return tokenizer_config | {"added_tokens_decoder": kept}


def by_token_remapped(ids: dict[str, int], new_ids: NewIds) -> dict[str, int]:
    """vocab.json and added_tokens.json: ids by token."""
    return {token: new_ids[old] for token, old in ids.items() if old in new_ids}


def _parts(config: Json) -> Iterator[Json]:
    return (config[key] for key in TEXT_PARTS if isinstance(config.get(key), dict))


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [number for number in values if type(number) is int and number >= 0]


def _remapped(key: str, value: Any, new_ids: NewIds) -> Any:
    if key == "vocab_size" and value is not None:
        return len(new_ids)
    if key in _LISTS and isinstance(value, list):
        return [new_ids.get(old, old) for old in value if old in new_ids or old < 0]
    if not key.endswith(_SUFFIXES) or not _ids(value):
        return value
    return [new_ids.get(old, old) for old in value] if isinstance(value, list) else new_ids[value]
