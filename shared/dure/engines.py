"""Which engine of this release can serve which model.

`llama` runs what llama.cpp does; the names are those that GGUF files carry (general.architecture). Only decoders that
chat are listed. A test looks each of them up in the runtime itself.
"""

from dure.errors import ModelUnsupported, SettingsError

_LLAMA = """
arcee bloom chatglm cohere2 command-r deci deepseek deepseek2 ernie4_5 exaone exaone4 falcon falcon-h1 gemma gemma2
gemma3 gemma3n glm4 gpt-oss gpt2 gptneox granite granitehybrid granitemoe hunyuan-dense internlm2 lfm2 llama mamba
mamba2 minicpm minicpm3 mpt nemotron olmo olmo2 olmoe openelm orion phi2 phi3 phimoe plamo qwen qwen2 qwen2moe qwen3
qwen3moe rwkv6 rwkv7 smollm3 stablelm starcoder2
"""
LLAMA = frozenset(_LLAMA.split())

# What dure_worker/engines/ark computes itself, from a byte-level BPE vocabulary.
ARK = frozenset({"gemma3", "gptneox", "llama", "qwen2", "qwen3"})

# GGUF files that dure_worker/engines/transformers_engine.py takes: those that transformers reads, of what `llama` runs.
_TRANSFORMERS = """
bloom falcon gemma2 gemma3 gpt-oss gpt2 lfm2 llama nemotron phi3 qwen2 qwen2moe qwen3 qwen3moe stablelm starcoder2
"""
TRANSFORMERS = frozenset(_TRANSFORMERS.split())

# How an engine may hold the weights (DURE_WORKER_WEIGHTS), its own choice first; others hold them as the file has them.
WEIGHTS = {"ark": ("int5", "file", "int8", "int4", "int2"), "transformers": ("bf16", "float32", "int8", "nf4")}


def weights_of(engine: str, wanted: str) -> str:
    """wanted: `auto`, or how. Raises SettingsError for what that engine cannot do."""
    known = WEIGHTS.get(engine, ())
    if wanted == "auto" or not known:
        return known[0] if known else "file"
    if wanted not in known:
        raise SettingsError(f"DURE_WORKER_WEIGHTS is {wanted}, and the {engine} engine has {', '.join(known)}")
    return wanted


# Checkpoints (config.json, model_type) that dure_workshop/convert.py knows, and what GGUF calls them.
CONVERTIBLE = {"gpt_neox": "gptneox", "llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


def that_run(architecture: str) -> list[str]:
    """Names of the engines that serve a GGUF file of this architecture. Raises ModelUnsupported if none does."""
    if architecture in LLAMA:
        others = {"ark": ARK, "transformers": TRANSFORMERS}
        return ["llama", *(name for name, known in others.items() if architecture in known)]
    raise ModelUnsupported(
        f"no engine of this release runs the architecture {architecture or '(none named)'}: `llama` runs "
        f"{', '.join(sorted(LLAMA))}"
    )


def that_run_checkpoint(model_type: str) -> list[str]:
    """The same for a Hugging Face checkpoint, which is converted to GGUF first. Raises ModelUnsupported."""
    if model_type in CONVERTIBLE:
        return that_run(CONVERTIBLE[model_type])
    raise ModelUnsupported(
        f"checkpoints of {model_type} cannot be converted here, only those of {', '.join(sorted(CONVERTIBLE))}: make a "
        "GGUF file of it with llama.cpp's convert_hf_to_gguf.py, then `dure model add FILE.gguf`"
    )
