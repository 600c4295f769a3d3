"""An engine's answer as a reader of Korean wants it: foreign sentences are tried anew, a torn one comes to its end."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from typing import Protocol

from dure.errors import ContextOverflow
from dure.job import Usage
from dure_worker.engines import Engine, GenerateRequest, Token
from dure_worker.engines.base import chosen

# A long sentence; once, and not until the model likes to end.
_MORE_TOKENS = 64
# Each try costs the reader a sentence's time. What is left after them is left out.
_MOST_TRIES_ANEW = 2
# Without chance the model would write the same again.
_LEAST_TEMPERATURE = 0.5
_NUM_SEEDS = 2**31  # that a request may name


class Reader(Protocol):
    """Takes each token's text before the next is asked for."""

    @property
    def is_torn(self) -> bool:
        """Whether the answer could not end here: nothing could be cut back to."""
        ...

    def take_back(self) -> str:
        """The end of what was generated, if the model should write it anew; it is forgotten then."""
        ...


def whole_answer(engine: Engine, request: GenerateRequest, reader: Reader) -> Generator[Token]:
    """As `generate`, with at most two sentences written anew, and 64 tokens more than max_tokens for a torn one.

    Usage counts all that was computed, what was taken back too.
    """
    text, ended = request.prefix, Token("")
    with closing(_native(engine, request, reader)) as tokens:
        for kept, token in tokens:
            text, ended = kept + token.text, token
            yield Token(token.text) if token.finish_reason == "length" else token
    if ended.finish_reason != "length":
        return
    usage = ended.usage
    num_more = min(_MORE_TOKENS, engine.info.context - usage.prompt_tokens - usage.completion_tokens)
    if num_more > 0 and reader.is_torn:
        more = replace(request, prefix=text, max_tokens=num_more)
        for token in _until_its_end(engine, more, reader):
            ended = token
            yield Token(token.text)
    num_tokens = usage.completion_tokens + (ended.usage.completion_tokens if ended.usage is not usage else 0)
    yield Token("", ended.finish_reason or "length", Usage(usage.prompt_tokens, num_tokens))


def _native(engine: Engine, request: GenerateRequest, reader: Reader) -> Generator[tuple[str, Token]]:
    """The tokens, each behind the answer so far, in which nothing stands that was taken back."""
    text, num_earlier = request.prefix, 0
    for num_tries in range(1 + _MOST_TRIES_ANEW):
        wanted, lead = request, ""
        if num_tries:
            wanted = _anew(request, text, num_tries, num_earlier)
            lead = text[len(wanted.prefix) :]
        forgotten, num_tokens = "", 0
        with closing(engine.generate(wanted)) as tokens:
            for token in tokens:
                found = token
                if lead and token.text:
                    # The model writes the blank itself, with the word behind it.
                    found = replace(token, text=token.text.removeprefix(lead))
                    lead = ""
                if num_tries and found.finish_reason:
                    usage = Usage(engine.count_tokens(request.messages), num_earlier + found.usage.completion_tokens)
                    found = replace(found, usage=usage)
                yield text, found
                text += found.text
                num_tokens += bool(token.text)
                is_last = num_tries == _MOST_TRIES_ANEW or num_earlier + num_tokens >= request.max_tokens
                if not is_last and not found.finish_reason and (forgotten := reader.take_back()):
                    break
        if not forgotten:
            return
        text = text.removesuffix(forgotten)
        num_earlier += num_tokens


def _anew(request: GenerateRequest, text: str, num_tries: int, num_earlier: int) -> GenerateRequest:
    """The request from the end of text on, with other dice."""
    sampling = request.sampling
    dice = replace(
        sampling,
        temperature=max(chosen(sampling, "temperature"), _LEAST_TEMPERATURE),
        seed=((sampling.seed or 0) + num_tries) % _NUM_SEEDS,
    )
    return replace(request, prefix=text.rstrip(" "), max_tokens=request.max_tokens - num_earlier, sampling=dice)


def _until_its_end(engine: Engine, request: GenerateRequest, reader: Reader) -> Generator[Token]:
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
                end = "" if reader.is_torn else token.text[-1:] or end
    except ContextOverflow:
        return  # a job that was taken over: its prefix had filled the context
