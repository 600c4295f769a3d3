"""What a model makes of a text before it chooses a token: the final state of every position, by the serving runtime.

The runtime gives no logits of a prompt, but as an embedding server without pooling it gives these states; logits are
their products with the rows of the output matrix.
"""

import secrets
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
import xllamacpp

from dure.errors import EngineError
from dure_workshop.dequantize import Floats

_TIMEOUT_S = 600  # one window on a very slow box


class HiddenStates:
    """Call `of(ids)`; a context manager, since the model stays loaded. The whole of `ids` must fit into `window`.

    adapter: a LoRA adapter that is added to the weights
    """

    def __init__(self, path: Path, window: int, num_threads: int, adapter: Path | None = None) -> None:
        key = secrets.token_hex(16)
        params = _params(path, window, num_threads)
        params.api_keys = [key]
        if adapter is not None:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter))]
        try:
            self._server = xllamacpp.Server(params)
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"{path} cannot be loaded: {error}. Take an intact model") from error
        # Not Server.handle_embeddings: without pooling it waits for ever.
        self._client = httpx.Client(
            base_url=self._server.listening_address, headers={"Authorization": f"Bearer {key}"}, timeout=_TIMEOUT_S
        )

    def of(self, ids: list[int]) -> Floats:
        """One row a token, after the model's last norm."""
        try:
            answer = self._client.post("/embedding", json={"content": [ids], "embd_normalize": -1})
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise EngineError(f"the llama runtime gives no states: {error}") from error
        return np.asarray(answer.json()[0]["embedding"], np.float32)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        del self._server


def _params(path: Path, window: int, num_threads: int) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = 1
    # Without pooling a text must fit into one batch.
    params.n_ctx = params.n_batch = params.n_ubatch = window
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = num_threads
    params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE  # the fast layout of the weights
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_NONE
    params.fit_params = False
    params.ui = False
    params.verbosity = -1
    return params
