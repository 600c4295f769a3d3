"""Questions to an engine, for tests over small models."""

from dure.job import Message, Sampling
from dure_worker.engines import Engine, GenerateRequest
from dure_worker.engines.timing import in_parallel

GREEDY = Sampling(temperature=0, repetition_penalty=1)
SAMPLED = Sampling(temperature=0.8, top_k=5, seed=7)


def ask(question: str, sampling: Sampling = GREEDY, max_tokens: int = 48, **changes: object) -> GenerateRequest:
    fields = {"id": question, "messages": [Message("user", question)], "max_tokens": max_tokens, "sampling": sampling}
    return GenerateRequest(**(fields | changes))  # type: ignore[arg-type]


def answer(engine: Engine, request: GenerateRequest) -> str:
    return "".join(token.text for token in engine.generate(request))


def together(engine: Engine, requests: list[GenerateRequest]) -> list[str]:
    """Their answers, asked for at once."""
    found = [""] * len(requests)

    def work(number: int) -> None:
        found[number] = answer(engine, requests[number])

    in_parallel(len(requests), work)
    return found
