"""Which engine serves which model."""

from pathlib import Path

import pytest

from dure import engines
from dure.errors import ModelUnsupported


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
    with pytest.raises(ModelUnsupported, match=r"dure model add FILE\.gguf"):
        engines.that_run_checkpoint("exaone")
