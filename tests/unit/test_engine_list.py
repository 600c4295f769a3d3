"""Which engine serves which model."""

from pathlib import Path

import pytest

from dure import engines, memory_plan
from dure.errors import ModelUnsupported, SettingsError


def test_every_architecture_that_is_promised_is_known_to_the_runtime() -> None:
    import xllamacpp.xllamacpp as runtime

    library = Path(runtime.__file__).read_bytes()
    # Its names are C strings; a linker may keep one as the end of another.
    assert [name for name in sorted(engines.LLAMA) if name.encode() + b"\0" not in library] == []
    assert b"no-such-architecture\0" not in library


def test_what_no_engine_runs_is_refused_with_what_they_do_run() -> None:
    assert engines.that_run("qwen2") == ["llama", "ark", "transformers"]
    assert engines.that_run("gptneox") == ["llama", "ark"]
    assert engines.that_run("gemma3") == ["llama", "ark", "transformers"]
    for name in ("whisper", ""):
        with pytest.raises(ModelUnsupported, match="qwen2"):
            engines.that_run(name)
    assert engines.that_run_checkpoint("llama") == ["llama", "ark", "transformers"]
    assert engines.that_run_checkpoint("gpt_neox") == ["llama", "ark"]
    with pytest.raises(ModelUnsupported, match=r"dure model add FILE\.gguf"):
        engines.that_run_checkpoint("exaone")


def test_an_engine_holds_weights_in_its_own_ways_only() -> None:
    assert engines.weights_of("ark", "auto") == "int5"
    assert engines.weights_of("transformers", "auto") == "bf16"
    assert engines.weights_of("llama", "int4") == "file", "it takes the file as it is"
    with pytest.raises(SettingsError, match=r"DURE_WORKER_WEIGHTS is nf4.*int5, file, int8, int4, int2"):
        engines.weights_of("ark", "nf4")


def test_the_plan_and_the_packing_know_the_same_ways() -> None:
    pytest.importorskip("torch", reason="the extra `torch` is not installed")
    packing = pytest.importorskip("dure_worker.engines.ark.packing", reason="auto-round-lib has no build here")
    assert tuple(packing.RECIPES) == engines.WEIGHTS["ark"]
    bits = {name: (recipe.bits, recipe.more_bits or recipe.bits) for name, recipe in packing.RECIPES.items()}
    assert {name: found for name, found in bits.items() if found[0]} == memory_plan._FITTED_BITS
    groups = {name: recipe.group for name, recipe in packing.RECIPES.items()}
    assert groups == {name: memory_plan._FITTED_GROUPS.get(name, memory_plan._FILE_GROUP) for name in groups}
