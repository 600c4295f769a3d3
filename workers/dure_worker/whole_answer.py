"""An engine's answer, and, where its limit tears the only sentence, what comes until that sentence ends."""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace

from dure.errors import ContextOverflow
from dure.job import Usage
from dure_worker.engines import Engine, GenerateRequest, Token

# A long sentence; once, and not until the model likes to end.
_MORE_TOKENS = 64


def whole_answer(engine: Engine, request: GenerateRequest, is_torn: Callable[[], bool]) -> Generator[Token]:
    """As `generate`, with at most 64 tokens more than max_tokens; usage counts them all.

    is_torn: asked after each token that was taken, whether the answer could not end there.
    """
    text, ended = request.prefix, Token("")
    with closing(engine.generate(request)) as tokens:
        for token in tokens:
            text, ended = text + token.text, token
            yield Token(token.text) if token.finish_reason == "length" else token
    if ended.finish_reason != "length":
        return
    usage = ended.usage
    num_more = min(_MORE_TOKENS, engine.info.context - usage.prompt_tokens - usage.completion_tokens)
    if num_more > 0 and is_torn():
        more = replace(request, prefix=text, max_tokens=num_more)
        for token in _until_its_end(engine, more, is_torn):
            ended = token
            yield Token(token.text)
    num_tokens = usage.completion_tokens + (ended.usage.completion_tokens if ended.usage is not usage else 0)
    yield Token("", ended.finish_reason or "length", Usage(usage.prompt_tokens, num_tokens))


def _until_its_end(engine: Engine, request: GenerateRequest, is_torn: Callable[[], bool]) -> Generator[Token]:
    """Each token says how many there were."""
    num_tokens, end = 0, ""
    try:
        with closing(engine.generate(request)) as tokens:
            for token in tokens:
                # A quotation that ends so may go on (“네.”라고).
                if end and (end.isspace() or token.text[:1].isspace()):
                    return
                num_tokens = token.usage.completion_tokens or num_tokens + bool(token.text)
                yield replace(token, usage=Usage(completion_tokens=num_tokens))
                end = "" if is_torn() else token.text[-1:] or end
    except ContextOverflow:
        return  # a job that was taken over: its prefix had filled the context
