"""A checkpoint, or a GGUF file that transformers can read, as model and tokenizer. Nothing comes over the network, and
no code that a checkpoint brings along is run.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

from dure import gguf
from dure.engines import TRANSFORMERS
from dure.errors import DureError, EngineError, ModelCorrupt, ModelUnsupported
from dure_worker.engines.hf.quantized import quantize
from dure_worker.pressure import trim_heap

Weights = Literal["bf16", "float32", "int8", "nf4"]

# What is not quantized, embeddings and norms, is bfloat16 too.
_DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32, "int8": torch.bfloat16, "nf4": torch.bfloat16}
# Of what a checkpoint advises for generation, which tokens must not come; the rest is the request's to say.
_KEPT_ADVICE = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids")


@dataclass(frozen=True)
class Loaded:
    """ends: ids that end an answer."""

    model: Any
    tokenizer: Any
    ends: list[int]


def load(path: Path, weights: Weights) -> Loaded:
    """path: a Hugging Face folder, or a GGUF file. Raises ModelCorrupt, ModelUnsupported, EngineError."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of every matrix that inputs become float16
    source = _GgufFile(path) if path.is_file() else _Folder(path)
    try:
        source.check()
        tokenizer = source.tokenizer()
        model = source.model(_DTYPES[weights])
        if weights in ("int8", "nf4"):
            quantize(model, weights)
    except DureError:
        raise
    except ImportError as error:
        raise EngineError(f"{path} needs more packages: {_first_line(error)}") from None
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ModelCorrupt(f"{path} cannot be loaded: {_first_line(error)}. {source.remedy}") from error
    model.eval()
    ends = _ends(model, tokenizer)
    _prepare_generation(model)
    trim_heap()  # what was read and converted is a third of what stays
    return Loaded(model, tokenizer, ends)


class _Folder:
    remedy = "Take the checkpoint whole: config.json, tokenizer.json, its .safetensors files"

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self) -> None:
        if not (self._path / "config.json").is_file():
            raise ModelCorrupt(f"{self._path} has no config.json: name a Hugging Face folder or a .gguf file")
        try:
            config = AutoConfig.from_pretrained(self._path, local_files_only=True, trust_remote_code=False)
        except ValueError as error:
            raise ModelUnsupported(
                f"transformers {transformers.__version__} does not know the architecture of {self._path} without code "
                f"that the checkpoint brings along, which is never run: choose another model. {_first_line(error)}"
            ) from None
        _require_decoder(config, self._path)

    def tokenizer(self) -> Any:
        try:
            return AutoTokenizer.from_pretrained(self._path, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, TypeError) as error:
            raise ModelCorrupt(
                f"{self._path} has no tokenizer that can be read: put tokenizer.json and tokenizer_config.json of the "
                f"same model there. {_first_line(error)}"
            ) from None

    def model(self, dtype: torch.dtype) -> Any:
        model, told = AutoModelForCausalLM.from_pretrained(
            self._path,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,  # a pickle could run code
            output_loading_info=True,
        )
        # transformers would make up what is missing by chance.
        if missing := sorted(told["missing_keys"]):
            raise ModelCorrupt(f"{self._path} lacks {len(missing)} tensors, among them {missing[0]}. {self.remedy}")
        return model


class _GgufFile:
    remedy = "Check it with `dure model verify`"

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self) -> None:
        architecture = gguf.read(self._path).architecture
        if architecture not in TRANSFORMERS:
            raise ModelUnsupported(
                f"{self._path.name}: transformers reads no GGUF file of {architecture or '(no architecture)'}: serve "
                "it with DURE_WORKER_ENGINE=llama"
            )

    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self._path.parent, gguf_file=self._path.name, local_files_only=True)

    def model(self, dtype: torch.dtype) -> Any:
        return AutoModelForCausalLM.from_pretrained(
            self._path.parent,
            gguf_file=self._path.name,
            dtype=dtype,
            local_files_only=True,
            quantization_config=GgufConfig(dequantize=True),
        )


def _require_decoder(config: Any, path: Path) -> None:
    if config.is_encoder_decoder or type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelUnsupported(f"{path} is a {config.model_type}, which does not write text: choose a chat model")


def _ends(model: Any, tokenizer: Any) -> list[int]:
    found: list[int] = []
    for told in (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id):
        found.extend(told if isinstance(told, list) else [] if told is None else [told])
    return found


def _prepare_generation(model: Any) -> None:
    """The engine itself picks tokens and knows where an answer ends."""
    kept = {name: getattr(model.generation_config, name, None) for name in _KEPT_ADVICE}
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0, **kept)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
