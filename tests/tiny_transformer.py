"""Checkpoints of the transformers library with random weights, some hundred KB: of several families, one tokenizer."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, PreTrainedTokenizerFast

from dure_workshop import texts

ROLES = ["<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
POSITIONS, VOCAB = 512, 800
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "gpt_neox": {"use_parallel_residual": True},
}
_KINDS = {"llama": LlamaConfig, "gpt_neox": GPTNeoXConfig}


def write(
    folder: Path, kind: str, *, template: str | None = CHATML, has_ends: bool = False, spread: float = 0.3
) -> Path:
    """has_ends: the model may end its answer; else only tokens that are whole characters ever come.

    spread: of the weights. Large ones make answers that wander, small ones a model that is computed more smoothly.
    """
    tokenizer = _tokenizer(template)
    tokenizer.save_pretrained(folder)
    config = _KINDS[kind](
        vocab_size=VOCAB, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=POSITIONS, initializer_range=spread, bos_token_id=None, eos_token_id=1,
        tie_word_embeddings=False, **CONFIGS[kind],
    )  # fmt: skip
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config.suppress_tokens = None if has_ends else _no_characters(tokenizer)
    model.save_pretrained(folder)
    return folder


def change(folder: Path, file: str, **values: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), "utf-8")


def _tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[AddedToken(role, special=True) for role in ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    found.train_from_iterator(texts.own("korean").splitlines(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=found, eos_token=ROLES[1], chat_template=template)


def _no_characters(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    texts = (tokenizer.decode([number], skip_special_tokens=True) for number in range(VOCAB))
    return [number for number, text in enumerate(texts) if not text or "\ufffd" in text]
