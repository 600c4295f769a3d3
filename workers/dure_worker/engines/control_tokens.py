"""Control tokens mark who speaks. Written by a user they are text and nothing else."""

import re

from dure.gguf import CONTROL, USER_DEFINED, Gguf

# Ends of a turn by their names, beside the one that a model names. Source: llama.cpp's llama-vocab.cpp.
TURN_ENDS = {
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>", "</s>",
    "[|endofturn|]", "<EOT>",
}  # fmt: skip
# Takes no room, and no tokenizer has it inside a control token.
_BREAK = "\u200b"


def control_tokens(source: Gguf) -> list[str]:
    """Control tokens, and whatever else of the vocabulary's own marks the chat template writes."""
    template = source.get("tokenizer.chat_template", "")
    tokens = source.get("tokenizer.ggml.tokens", [])
    kinds = source.get("tokenizer.ggml.token_type", [])
    return [
        token
        for token, kind in zip(tokens, kinds, strict=False)
        if kind == CONTROL or (kind == USER_DEFINED and token.strip() and token in template)
    ]


class ControlTokens:
    """neutral(text) is the same text to a reader, but none of the tokens is found in it.

    The runtime looks for them in the whole prompt, template and users' text alike, and takes no other marking of what
    is whose. So a zero-width space goes behind the first character of each.
    """

    def __init__(self, tokens: list[str]) -> None:
        # One character cannot be broken; no vocabulary has such a control token.
        longest_first = sorted({token for token in tokens if len(token) > 1}, key=lambda token: (-len(token), token))
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def neutral(self, text: str) -> str:
        # Again until none is left: what is broken may have hidden another that overlaps it.
        while self._pattern is not None and self._pattern.search(text):
            text = self._pattern.sub(lambda found: f"{found[0][0]}{_BREAK}{found[0][1:]}", text)
        return text
