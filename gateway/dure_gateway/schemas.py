"""Requests and answers of the HTTP interface. Unknown fields are refused, so that a misspelt one is not dropped."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator
from pydantic_core import PydanticCustomError

from dure.edits import Pass
from dure.job import SINCE_SCHEMA_2, JobPayload, Message, Overflow, Sampling
from dure.persona import DEFAULT_PERSONALITY, DEFAULT_STYLE
from dure.sampling_ranges import (
    DryAllowedLength,
    DryBase,
    DryMultiplier,
    MinP,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
)
from dure.writing import Script

# Far above any context that fits a 3 GB box; the worker's context decides, this only bounds what is stored.
_MAX_CHARACTERS = 64_000

Content = Annotated[str, StringConstraints(min_length=1, max_length=_MAX_CHARACTERS, pattern=r"\S")]
ConversationId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
ModelName = Annotated[str, Field(min_length=1, max_length=200)]
MaxTokens = Annotated[int, Field(ge=1, le=4096)]
Stop = Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=8)]
LogitBias = Annotated[
    dict[Annotated[int, Field(ge=0, lt=2**31)], Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=1024, description="Added to the logits of these token ids of the served model. -100: never."),
]
Scripts = Annotated[
    list[Script],
    Field(
        min_length=1,
        max_length=len(Script),
        description="The answer's letters come from these writing systems only, such as hangul and latin. Digits, "
        "punctuation, symbols and emoji are always allowed.",
    ),
]

Edits = Annotated[
    list[Pass],
    Field(
        max_length=len(Pass),
        description="Corrections of the answer that may run, of those that its worker runs. Empty: none. Default: all.",
    ),
]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SamplingFields(Request):
    """What is not said here, the personality and the style may say, and else the worker's model."""

    max_tokens: MaxTokens | None = None
    stop: Stop = []
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)
    dry_multiplier: DryMultiplier | None = Field(
        default=None,
        description="Above 0: what would make a repeated run of tokens longer loses dry_multiplier * dry_base ** (its "
        "length - dry_allowed_length) of its logit. 0.8 suits Korean.",
    )
    dry_base: DryBase | None = None
    dry_allowed_length: DryAllowedLength | None = Field(
        default=None, description="Tokens. From 2 on, Korean endings may repeat."
    )
    logit_bias: LogitBias | None = None
    scripts: Scripts | None = None

    def sampling(self) -> Sampling:
        values = {field.name: getattr(self, field.name) for field in fields(Sampling)}
        return Sampling(**values | {"scripts": _names(self.scripts)})


def _names(chosen: Sequence[Script] | Sequence[Pass] | None) -> list[str] | None:
    """Each once."""
    return None if chosen is None else [each.value for each in dict.fromkeys(chosen)]


class ChatRequest(SamplingFields):
    """One question, with the conversation kept by the server."""

    message: Content = Field(examples=["안녕하세요! 오늘 날씨가 어때요?"])
    style: str | None = Field(
        default=None,
        description="One of GET /api/personas: polite 합쇼체, casual 해요체, intimate 해체, expert 합쇼체 with terms "
        "kept, or one of the operator's. Default: the personality's own, which is polite unless the operator says "
        "otherwise.",
        examples=["casual"],
    )
    personality: str = Field(
        default=DEFAULT_PERSONALITY,
        description="One of GET /api/personas: helpful, warm, concise, playful, or one of the operator's.",
    )
    conversation_id: ConversationId | None = Field(
        default=None, description="From an earlier answer, to go on with it."
    )
    model: ModelName | None = None
    overflow: Overflow | None = Field(
        default=None,
        description="When question and answer outgrow the worker's context: refuse (default) ends the answer there and "
        "refuses a longer question; window goes on and forgets the oldest part (engine ark).",
    )
    edits: Edits | None = None

    def payload(self, history: list[Message], max_tokens: int) -> JobPayload:
        return JobPayload(
            messages=[*history, Message("user", self.message)],
            style=self.style,
            personality=self.personality,
            max_tokens=self.max_tokens or max_tokens,
            stop=self.stop,
            sampling=self.sampling(),
            overflow=self.overflow,
            edits=_names(self.edits),
        )

    def as_sent(self) -> str:
        """What an idempotency key stands for. Fields of later releases count where they are used, and earlier ones
        wrote a style that nobody had named: a request that is repeated to a newer gateway is still the same.
        """
        unused = {name for name in (*SINCE_SCHEMA_2, "overflow", "edits") if getattr(self, name) is None}
        return self.model_copy(update={"style": self.style or DEFAULT_STYLE}).model_dump_json(exclude=unused)


Keep = Annotated[bool, Field(description="true: go on when this client leaves; GET /v1/jobs/{id} then has the answer.")]


class StreamingChatRequest(ChatRequest):
    keep: Keep = False
    stream: bool = Field(default=False, description="true: server-sent events; false: one JSON answer at the end.")


class TextPart(BaseModel):
    type: Literal["text"]
    text: Content


class CompletionMessage(BaseModel):
    """A message as OpenAI clients send it; fields that only tools use are ignored."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | Annotated[list[TextPart], Field(min_length=1)]

    def to_message(self) -> Message:
        text = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, text)


class StreamOptions(BaseModel):
    include_usage: bool = False


class CompletionRequest(BaseModel):
    """OpenAI's chat completion. Fields without effect here (user, metadata, …) are ignored, as its clients expect."""

    model: ModelName
    messages: Annotated[list[CompletionMessage], Field(min_length=1, max_length=200)]
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    stop: Stop | Annotated[str, Field(min_length=1, max_length=100)] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)
    logit_bias: LogitBias | None = None
    n: Literal[1] = 1
    style: str | None = Field(
        default=None,
        description="Extension: one of GET /api/personas. Without style and personality the messages' own system text "
        "rules.",
    )
    personality: str | None = Field(default=None, description="Extension: one of GET /api/personas.")
    edits: Edits | None = None
    keep: Keep = False

    @field_validator("messages")
    @classmethod
    def _ends_with_question(cls, messages: list[CompletionMessage]) -> list[CompletionMessage]:
        if messages[-1].role != "user":
            raise PydanticCustomError("last_message_not_user", "the last message must be the user's")
        return messages

    def payload(self, max_tokens: int) -> JobPayload:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return JobPayload(
            messages=[message.to_message() for message in self.messages],
            style=self.style,
            personality=self.personality,
            max_tokens=self.max_completion_tokens or self.max_tokens or max_tokens,
            stop=stop,
            sampling=Sampling(
                temperature=self.temperature, top_p=self.top_p, seed=self.seed, logit_bias=self.logit_bias
            ),
            edits=_names(self.edits),
        )
