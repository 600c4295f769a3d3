"""Settings of one worker, from variables named DURE_WORKER_<FIELD>."""

import os
import re
import socket
from collections.abc import Collection
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from dure.edits import PARSING, Pass
from dure.machine_memory import usable_cores
from dure.settings import SectionSettings

_NAMED: dict[str, Collection[str]] = {"all": tuple(Pass), "light": set(Pass) - PARSING, "none": ()}


class WorkerSettings(SectionSettings):
    model_config = SettingsConfigDict(env_prefix="DURE_WORKER_")

    name: str = Field(
        default_factory=lambda: f"{_safe(socket.gethostname())}-{os.getpid()}",
        description="Unique in the cluster: a worker that starts under the name of a live one takes its queue.",
    )
    engine: Literal["auto", "llama", "ark", "transformers", "scripted"] = Field(
        default="auto",
        description="What computes the answers. llama: on every CPU. ark (dure[torch]): on x86 with AVX512-VNNI. "
        "auto: ark where the CPU allows it and a measurement at the first start finds it clearly faster, else llama. "
        "transformers (dure[torch]): the reference, slow and large.",
    )
    weights: Literal["auto", "int5", "file", "int8", "int4", "int2", "bf16", "float32", "nf4"] = Field(
        default="auto",
        description="How an engine holds the weights. ark: int5 (fitted on a Korean text, the fastest), file "
        "(as exactly as the file has them), int8, int4 (fitted too, smaller, more perplexity) and int2 (for trials). "
        "transformers: bf16, float32, int8, nf4. auto: the first of these; llama takes the file.",
    )
    slots: int = Field(default=4, ge=1, le=64, description="Answers generated at once; further jobs wait in the queue.")
    context: int = Field(
        default=2048,
        ge=256,
        le=131072,
        description="Tokens a slot holds, prompt and answer together. Older turns are left out beyond it.",
    )
    fit: bool = Field(
        default=False,
        description="Where slots, context and prompt cache do not fit into this machine's memory, serve with fewer "
        "that do. Without it such a worker does not start.",
    )
    num_sharing: int = Field(
        default=1, ge=1, le=64, description="Workers on this machine: each takes its part of memory and cores."
    )
    threads: int = Field(
        default=0, ge=0, le=256, description="Engine threads. 0: as many as this worker's part of cores and CPU quota."
    )
    prompt_cache_mib: int = Field(
        default=64, ge=0, le=65536, description="Memory for prompts of conversations that lost their slot. 0: none."
    )
    kv_bits: Literal[16, 8] = Field(
        default=16,
        description="Of a number of the KV cache, which keeps what was read of each conversation. 8: half the memory, "
        "a little less exact.",
    )
    kv_disk_mib: int = Field(
        default=0,
        ge=0,
        le=1 << 20,
        description="Disk space for the KV caches of conversations that lost their slot or outlived a restart, so that "
        "they are not read again (engine ark). They tell what was said, and are deleted with the conversations' own "
        "time. 0: none.",
    )
    draft_model: str = Field(
        default="",
        description="A smaller model of the same vocabulary that guesses for this one (engine ark). Its memory is "
        "planned too. Empty: guesses come from the text alone.",
    )
    adapter: str = Field(
        default="",
        description="A LoRA adapter of this model, a GGUF file as `dure workshop adapt` writes it (engine llama; with "
        "another one, serve the merged model that lies beside it). Empty: none.",
    )
    load: Literal["copy", "mmap"] = Field(
        default="copy",
        description="copy: weights in private memory, in the CPU's fast layout. mmap: shared with the page cache, "
        "slower, but the system may drop them under pressure.",
    )
    edits: str = Field(
        default="all",
        description="What is corrected in answers: `all`, `light` (what needs no Kiwi, 335 MiB less), `none`, or some "
        f"of {', '.join(Pass)} with commas between.",
    )
    grace_s: float = Field(
        default=20.0,
        ge=0,
        le=600,
        description="After SIGTERM running answers may go on so long; then they are given back.",
    )
    lease_s: float = Field(
        default=15.0, ge=1, le=60, description="A worker silent for so long loses its jobs to others."
    )
    memory_mib: int = Field(
        default=2400,
        ge=0,
        le=1 << 20,
        description="Resident memory at which its supervisor kills a worker, at most its part of the machine. Before "
        "that it trims its caches, then takes no long prompts, then starts anew in order. 0: none of this.",
    )
    hung_after_s: float = Field(
        default=30.0,
        ge=1,
        le=600,
        description="Its supervisor restarts a worker that is silent, or whose answers stand still, for so long.",
    )
    heartbeat_fd: int = Field(default=-1, ge=-1, description="Set by the supervisor: the pipe to it.")
    # For tests, demos and load simulation with the scripted engine.
    scripted_token_s: float = Field(default=0.0, ge=0, le=10, description="Pause before each token of `scripted`.")
    scripted_faults: bool = Field(
        default=False, description="`scripted` dies at <die>, stands still at <hang>, and takes memory at <grow>."
    )

    @field_validator("edits")
    @classmethod
    def _are_passes(cls, value: str) -> str:
        if value not in _NAMED and (unknown := sorted(set(value.split(",")) - set(Pass))):
            choices = ", ".join([*_NAMED, *Pass])
            raise ValueError(f"no pass is called {', '.join(unknown)}: choose of {choices}")
        return value

    @property
    def passes(self) -> list[str]:
        """Of the Korean editor, in their order."""
        wanted = _NAMED.get(self.edits, self.edits.split(","))
        return [name for name in Pass if name in wanted]

    @property
    def is_parsing(self) -> bool:
        """Whether Kiwi is loaded for them."""
        return not PARSING.isdisjoint(self.passes)

    @field_validator("kv_bits", mode="before")
    @classmethod
    def _is_number(cls, value: object) -> object:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("name")
    @classmethod
    def _is_queue_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value):
            raise ValueError("wanted 1 to 64 of: letters, digits, dot, dash, underscore")
        return value

    @property
    def num_threads(self) -> int:
        return self.threads or max(1, usable_cores().num_threads // self.num_sharing)


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)[:40] or "worker"
