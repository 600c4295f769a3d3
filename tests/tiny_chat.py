"""A decoder of two layers with random weights and a chat template, as a GGUF file that the ark engine serves."""

from pathlib import Path

import tiny_checkpoint
from dure.memory_plan import Precision
from dure_workshop import convert
from dure_workshop.trim.checkpoint_files import Checkpoint
from tiny_decoder import TinyDecoder

TEMPLATE = "{% for m in messages %}<|begin|>{{ m.role }} {{ m.content }}<|end|>{% endfor %}<|begin|>assistant "


def write(folder: Path) -> Path:
    checkpoint = TinyDecoder.make("qwen2").write(folder / "checkpoint")
    tiny_checkpoint.write_json(checkpoint / "tokenizer_config.json", {"chat_template": TEMPLATE})
    convert.convert(Checkpoint.read(checkpoint), folder / "model.gguf", Precision.Q8_0)
    return folder / "model.gguf"
