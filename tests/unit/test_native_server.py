"""A llama.cpp server as an engine, before a stand-in that speaks as it does (tools/server/README.md)."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.comparison.asking import opening, request
from benchmarks.comparison.native_server import NativeServer

from dure.errors import EngineError

# What is asked decides what it does; it writes until nobody listens.
STAND_IN = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

def chunk(text, reason=None, **more):
    return {{"choices": [{{"delta": {{"content": text}}, "finish_reason": reason}}], **more}}

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.begin(200)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/apply-template":
            return self.begin(200, {{"prompt": " ".join(each["content"] for each in asked["messages"])}})
        if self.path == "/tokenize":
            return self.begin(200, {{"tokens": asked["content"].split()}})
        question = asked["messages"][-1]["content"]
        if question == "refuse":
            return self.begin(400, {{"error": "the request exceeds the context"}})
        self.begin(200)
        if question == "break":
            return self.say({{"error": {{"message": "out of memory"}}}})
        self.say({{"choices": [], "prompt_progress": {{"processed": 1}}}})
        number = 0
        while number < asked["max_tokens"]:
            self.say(chunk(f"{{number}} "))
            number += 1
        if question != "stop short":
            self.say(chunk(None, "length"))
            self.say({{"choices": [], "usage": {{"prompt_tokens": 7, "completion_tokens": number}}}})
        self.wfile.write(b"data: [DONE]\\n\\n")

    def begin(self, status, body=None):
        self.send_response(status)
        self.end_headers()
        if body is not None:
            self.wfile.write(json.dumps(body).encode())

    def say(self, event):
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\\n\\n")

port = int(sys.argv[sys.argv.index("--port") + 1])
ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NativeServer]:
    binary = tmp_path / "llama-server"
    binary.write_text(STAND_IN.format(python=sys.executable), "utf-8")
    binary.chmod(0o755)
    made = NativeServer(binary, tmp_path / "m.gguf", "m", num_slots=2, context=64, num_threads=1)
    yield made
    made.close()


def test_an_answer_comes_in_pieces_and_ends_with_reason_and_usage(server: NativeServer) -> None:
    tokens = list(server.generate(request(opening("go on"), 3)))
    assert "".join(token.text for token in tokens) == "0 1 2 "
    assert tokens[-1].finish_reason == "length"
    assert (tokens[-1].usage.prompt_tokens, tokens[-1].usage.completion_tokens) == (7, 3)
    assert server.count_tokens(opening("두 마디")) == len(opening("")[0].content.split()) + 2


def test_a_cancelled_answer_ends_with_its_next_piece(server: NativeServer) -> None:
    asked = request(opening("go on"), 10**9)
    answer = server.generate(asked)
    assert next(token.text for token in answer if token.text) == "0 "
    server.cancel(asked.id)
    *_, last = answer
    assert last.finish_reason == "cancelled"


@pytest.mark.parametrize(
    ("question", "message"),
    [("refuse", "exceeds the context"), ("break", "out of memory"), ("stop short", "without saying why")],
)
def test_what_the_server_complains_of_is_said(server: NativeServer, question: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        list(server.generate(request(opening(question), 1)))


def test_a_server_that_does_not_start_is_quoted(tmp_path: Path) -> None:
    binary = tmp_path / "llama-server"
    binary.write_text("#!/bin/sh\necho failed to load model >&2\nexit 1\n", "utf-8")
    binary.chmod(0o755)
    with pytest.raises(EngineError, match="failed to load model"):
        NativeServer(binary, tmp_path / "m.gguf", "m", num_slots=2, context=64, num_threads=1)
