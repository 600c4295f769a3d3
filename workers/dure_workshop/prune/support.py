"""What can be left out of which model so that every engine that serves it still loads it."""

from dure.errors import ModelUnsupported
from dure.gguf import Gguf
from dure_workshop.prune.structure import Structure

# Qwen3 of another width of its heads: transformers does not read that width from a GGUF file.
_QWEN3_HEAD_DIM = 128


def check_depth(source: Gguf, structure: Structure) -> None:
    """Raises ModelUnsupported."""
    if structure.shape.window:
        raise ModelUnsupported(
            f"{source.path.name} has layers that look back to a window only, by their numbers: without one the others "
            "would change; prune its width (--ffn, --heads)"
        )


def check_heads(source: Gguf, structure: Structure) -> None:
    """llama.cpp takes a Qwen2 only whose heads make up the hidden size; transformers so a Llama's from a GGUF file.

    Raises ModelUnsupported.
    """
    is_read = {"gemma3": True, "qwen3": structure.shape.head_dim == _QWEN3_HEAD_DIM}
    if not is_read.get(source.architecture, False) or not structure.of_head:
        raise ModelUnsupported(
            f"--heads: not every engine would load {source.path.name} with fewer heads (they do for gemma3, and for "
            f"qwen3 with heads of {_QWEN3_HEAD_DIM}): prune --ffn or --layers"
        )
