"""Requests and answers of the HTTP interface. Unknown fields are refused, so that a misspelt one is not dropped."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator
from pydantic_core import PydanticCustomError

from dure.job import JobPayload, Message, Sampling
from dure.persona import Personality, Style

# Far above any context that fits a 3 GB box; the worker's context decides, this only bounds what is stored.
_MAX_CHARACTERS = 64_000

Content = Annotated[str, StringConstraints(min_length=1, max_length=_MAX_CHARACTERS, pattern=r"\S")]
ConversationId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
ModelName = Annotated[str, Field(min_length=1, max_length=200)]
MaxTokens = Annotated[int, Field(ge=1, le=4096)]
Stop = Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=8)]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SamplingFields(Request):
    """What the worker does not find here, it takes from its model's defaults."""

    max_tokens: MaxTokens | None = None
    stop: Stop = []
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1, le=1000)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, ge=0.5, le=2)
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)

    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.top_k, self.min_p, self.repetition_penalty, self.seed)


class ChatRequest(SamplingFields):
    """One question, with the conversation kept by the server."""

    message: Content = Field(examples=["안녕하세요! 오늘 날씨가 어때요?"])
    style: Style = Field(
        default=Style.POLITE, description="polite 합쇼체, casual 해요체, expert 합쇼체 with terms kept"
    )
    personality: Personality = Personality.HELPFUL
    conversation_id: ConversationId | None = Field(
        default=None, description="From an earlier answer, to go on with it."
    )
    model: ModelName | None = None

    def payload(self, history: list[Message], max_tokens: int) -> JobPayload:
        return JobPayload(
            messages=[*history, Message("user", self.message)],
            style=self.style.value,
            personality=self.personality.value,
            max_tokens=self.max_tokens or max_tokens,
            stop=self.stop,
            sampling=self.sampling(),
        )


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
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)
    n: Literal[1] = 1
    style: Style | None = Field(default=None, description="Extension. Unset: the messages' own system text rules.")
    personality: Personality | None = Field(default=None, description="Extension.")
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
            sampling=Sampling(temperature=self.temperature, top_p=self.top_p, seed=self.seed),
        )
