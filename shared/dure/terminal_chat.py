"""`dure chat`: a conversation in the terminal."""

import contextlib
from collections.abc import Callable

import httpx
from rich.console import Console
from rich.live import Live
from rich.text import Text

from dure.client import ChatReply, Client, StreamEvent
from dure.errors import ClientError
from dure.events import tidy
from dure.persona import PERSONALITIES, STYLES

_HELP = """/새로, /new          새 대화를 시작합니다. / Start a new conversation.
/말투, /style 이름   말투를 바꿉니다. / Change the style: {styles}
/성격, /mood 이름    성격을 바꿉니다. / Change the personality: {personalities}
/기록, /history      지금까지의 대화를 봅니다. / Show the conversation.
/끝, /quit           나갑니다. / Leave.
답이 나오는 동안 Ctrl-C를 누르면 그 답만 멈춥니다. / Ctrl-C stops a running answer.""".format(
    styles=", ".join(STYLES), personalities=", ".join(PERSONALITIES)
)


class TerminalChat:
    """read() returns the next line typed and raises EOFError at the end of input."""

    def __init__(self, client: Client, console: Console, style: str, personality: str) -> None:
        self._client = client
        self._console = console
        self._style = style
        self._personality = personality
        self._conversation_id: str | None = None
        self._turns: list[tuple[str, str]] = []

    def run(self, read: Callable[[], str]) -> None:
        self._console.print("두레입니다. 무엇이든 물어보세요. (/도움말, /help)", style="bold", highlight=False)
        while True:
            try:
                line = read().strip()
            except (EOFError, KeyboardInterrupt):
                self._console.print()
                return
            if line in {"/끝", "/quit", "/exit"}:
                return
            if line.startswith("/"):
                self._command(line)
            elif line:
                self._ask(line)

    def _command(self, line: str) -> None:
        name, _, value = line.partition(" ")
        if name in {"/새로", "/new"}:
            self._conversation_id, self._turns = None, []
            self._note("새 대화를 시작합니다. / New conversation.")
        elif name in {"/기록", "/history"}:
            for question, answer in self._turns:
                self._console.print(Text(f"› {question}", "cyan"), Text(answer), sep="\n")
        elif name in {"/말투", "/style"} and value.strip():
            self._style = value.strip()
            self._note(f"→ {self._style}")
        elif name in {"/성격", "/mood"} and value.strip():
            self._personality = value.strip()
            self._note(f"→ {self._personality}")
        else:
            self._console.print(_HELP, style="dim", highlight=False)

    def _ask(self, question: str) -> None:
        answer = _Answer()
        try:
            with Live(
                answer.render(), console=self._console, refresh_per_second=12, vertical_overflow="visible"
            ) as live:
                events = self._client.stream(
                    question,
                    style=self._style,
                    personality=self._personality,
                    conversation_id=self._conversation_id,
                )
                # Closing the stream, also by Ctrl-C, tells the gateway to cancel.
                with contextlib.closing(events) as stream:
                    for event in stream:
                        answer.take(event)
                        live.update(answer.render())
        except KeyboardInterrupt:
            self._note("멈췄습니다. / Stopped.")
        except ClientError as error:
            self._console.print(Text(f"{error}", "red"))
        except httpx.TransportError as error:
            self._console.print(
                f"게이트웨이가 답하지 않습니다. `dure up`으로 켜 주세요. / No gateway answers: run `dure up`. "
                f"({error})",
                style="red",
                highlight=False,
            )
        if answer.reply:
            self._conversation_id = answer.reply.conversation_id
            self._turns.append((question, answer.reply.reply))
            self._note(_figures(answer.reply))

    def _note(self, text: str) -> None:
        self._console.print(Text(text, "dim"))


class _Answer:
    """An answer on the screen: final sentences plain, the draft behind them dim."""

    def __init__(self) -> None:
        self.reply: ChatReply | None = None
        self._fixed = ""
        self._draft = ""
        self._waiting = "…"

    def take(self, event: StreamEvent) -> None:
        if event.type == "queued" and event.queue_position is not None:
            self._waiting = f"앞에 {event.queue_position}명이 기다리고 있습니다… / {event.queue_position} before you…"
        elif event.type in {"start", "restarted"}:
            self._fixed = self._draft = ""
        elif event.type == "token":
            self._draft = tidy(self._draft + event.text)
        elif event.type == "sentence":
            self._fixed += event.text
            self._draft = self._draft[event.replaces :]
        elif event.reply:
            self.reply = event.reply

    def render(self) -> Text:
        if self.reply:
            return Text(self.reply.reply)
        text = Text(self._fixed)
        text.append(self._draft, "bright_black")
        return text if text.plain else Text(self._waiting, "dim")


def _figures(reply: ChatReply) -> str:
    total, speed = reply.timings.get("total_s"), reply.timings.get("tokens_per_s")
    parts = [f"{reply.usage['completion_tokens']} tokens"]
    parts += [f"{total:.1f} s"] if total else []
    parts += [f"{speed:.1f} tokens/s"] if speed else []
    return " · ".join(parts)
