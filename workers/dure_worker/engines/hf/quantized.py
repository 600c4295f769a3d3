"""Matrices of a loaded model in bitsandbytes' int8 or NF4, from a checkpoint and from a GGUF file alike.

transformers does the same while it loads a checkpoint, in as much memory (measured), but not for GGUF files.
"""

from typing import Any, Literal

import bitsandbytes
from torch import nn


def quantize(model: Any, weights: Literal["int8", "nf4"]) -> None:
    """In place, one after the other; embeddings and the output stay as they are, as transformers leaves them too."""
    head = model.get_output_embeddings()
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear and module is not head]
    for name in names:
        parent, _, own = name.rpartition(".")
        linear = model.get_submodule(name)
        setattr(model.get_submodule(parent), own, _int8(linear) if weights == "int8" else _nf4(linear))


def _int8(linear: nn.Linear) -> nn.Module:
    made = bitsandbytes.nn.Linear8bitLt(
        linear.in_features, linear.out_features, linear.bias is not None, has_fp16_weights=False, threshold=6.0,
        device="meta",
    )  # fmt: skip
    made.weight = bitsandbytes.nn.Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False).to("cpu")
    made.bias = linear.bias
    found: nn.Module = made
    return found


def _nf4(linear: nn.Linear) -> nn.Module:
    made = bitsandbytes.nn.Linear4bit(
        linear.in_features, linear.out_features, linear.bias is not None, linear.weight.dtype, quant_type="nf4",
        device="meta",
    )  # fmt: skip
    made.weight = bitsandbytes.nn.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4").to("cpu")
    made.bias = linear.bias
    found: nn.Module = made
    return found
