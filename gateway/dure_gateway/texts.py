"""What the gateway says to people, in Korean and English. Each entry: what is wrong, and what to do."""

from enum import Enum
from typing import Any


class Text(Enum):
    """code, Korean message, Korean remedy, English message, English remedy."""

    JSON_INVALID = (
        "json_invalid",
        "요청 본문이 올바른 JSON이 아닙니다({position}번째 글자 부근).",
        "따옴표와 쉼표, 괄호를 확인해 주세요.",
        "The body is not valid JSON (near character {position}).",
        "Check quotes, commas and brackets.",
    )
    MISSING = (
        "missing",
        "꼭 필요한 값이 빠졌습니다.",
        "이 필드를 넣어 다시 보내 주세요.",
        "A required value is missing.",
        "Send the request again with this field.",
    )
    UNKNOWN_FIELD = (
        "unknown_field",
        "알 수 없는 필드입니다.",
        "철자를 확인하거나 이 필드를 빼 주세요. 쓸 수 있는 필드는 /docs에 있습니다.",
        "This field is not known.",
        "Check its spelling or leave it out; /docs lists the fields.",
    )
    NOT_A_CHOICE = (
        "not_a_choice",
        "고를 수 없는 값입니다.",
        "다음 가운데 하나를 보내 주세요: {expected}",
        "This value cannot be chosen.",
        "Send one of: {expected}",
    )
    TOO_SHORT = (
        "too_short",
        "내용이 비어 있거나 너무 짧습니다.",
        "{limit}자(개) 이상 보내 주세요.",
        "This is empty or too short.",
        "Send at least {limit}.",
    )
    TOO_LONG = (
        "too_long",
        "내용이 너무 깁니다.",
        "{limit}자(개) 이하로 줄여 주세요.",
        "This is too long.",
        "Send at most {limit}.",
    )
    OUT_OF_RANGE = (
        "out_of_range",
        "값이 범위를 벗어났습니다.",
        "{limit} 값을 보내 주세요.",
        "The value is out of range.",
        "Send a value {limit}.",
    )
    WRONG_TYPE = (
        "wrong_type",
        "값의 형식이 맞지 않습니다.",
        "{expected} 형식으로 보내 주세요.",
        "The value has the wrong type.",
        "Send: {expected}.",
    )
    INVALID = (
        "invalid",
        "값이 올바르지 않습니다: {reason}",
        "/docs에서 이 필드의 설명을 확인해 주세요.",
        "The value is not valid: {reason}",
        "See this field in /docs.",
    )
    LAST_NOT_USER = (
        "last_message_not_user",
        "마지막 메시지는 사용자의 질문이어야 합니다.",
        'messages의 끝에 {{"role": "user"}}인 메시지를 넣어 주세요.',
        "The last message must be the user's question.",
        'End `messages` with one of {{"role": "user"}}.',
    )
    BODY_TOO_LARGE = (
        "body_too_large",
        "요청 본문이 {limit}KiB를 넘습니다.",
        "메시지를 줄이거나 나누어 보내 주세요.",
        "The body is larger than {limit} KiB.",
        "Shorten the message, or send it in parts.",
    )
    NO_SUCH_JOB = (
        "job_not_found",
        "그런 작업이 없습니다.",
        "작업 번호를 확인해 주세요. 끝난 작업은 24시간 뒤에 지워집니다.",
        "There is no such job.",
        "Check the id; ended jobs are deleted after 24 hours.",
    )
    NO_SUCH_MODEL = (
        "model_not_found",
        "‘{model}’ 모델을 맡은 작업기가 없습니다.",
        "다음 가운데 하나를 보내 주세요: {expected}",
        "No worker serves the model '{model}'.",
        "Send one of: {expected}",
    )
    BAD_IDEMPOTENCY_KEY = (
        "idempotency_key_invalid",
        "Idempotency-Key는 1~200자의 ASCII 문자여야 합니다.",
        "UUID처럼 짧은 값을 보내 주세요.",
        "Idempotency-Key must be 1 to 200 ASCII characters.",
        "Send a short value such as a UUID.",
    )
    IDEMPOTENCY_CONFLICT = (
        "idempotency_conflict",
        "같은 Idempotency-Key로 다른 요청을 보낸 적이 있습니다.",
        "새 키를 보내 주세요.",
        "This Idempotency-Key was used with a different request.",
        "Send a new key.",
    )
    BAD_EVENT_ID = (
        "last_event_id_invalid",
        "Last-Event-ID를 읽을 수 없습니다.",
        "받은 마지막 이벤트의 id를 그대로 보내거나, 처음부터 받으려면 빼 주세요.",
        "Last-Event-ID cannot be read.",
        "Send the id of the last event as it came, or leave it out to start from the beginning.",
    )
    QUEUE_FULL = (
        "queue_full",
        "기다리는 작업이 이미 {num}개입니다.",
        "잠시 뒤에 다시 보내 주세요. 자주 그렇다면 작업기를 늘리면 됩니다.",
        "{num} jobs are waiting already.",
        "Try again later; if it happens often, add a worker.",
    )
    TOO_MANY_STREAMS = (
        "too_many_streams",
        "동시에 받아 보는 답이 너무 많습니다.",
        "잠시 뒤에 다시 연결해 주세요.",
        "Too many answers are being followed at once.",
        "Connect again later.",
    )
    REDIS_AWAY = (
        "redis_unavailable",
        "작업을 적어 둘 저장소(Redis)가 응답하지 않습니다.",
        "잠시 뒤에 다시 보내 주세요. 운영자는 Redis가 켜져 있는지 확인해 주세요.",
        "The job store (Redis) does not answer.",
        "Try again in a few seconds; operators: check that Redis is running.",
    )
    REDIS_REFUSED = (
        "redis_refused",
        "저장소(Redis)가 명령을 거절했습니다.",
        "운영자는 게이트웨이 로그와 Redis의 권한, 남은 메모리와 디스크를 확인해 주세요.",
        "The job store (Redis) refused a command.",
        "Operators: see the gateway's log, and Redis' permissions, memory and disk.",
    )
    CONTEXT_OVERFLOW = (
        "context_overflow",
        "질문이 모델이 한 번에 읽을 수 있는 길이를 넘습니다.",
        "질문을 줄이거나 나누어 물어봐 주세요.",
        "The question is longer than the model can read at once.",
        "Shorten it.",
    )
    JOB_FAILED = (
        "job_failed",
        "답을 만들지 못했습니다({reason}).",
        "다시 시도해 주세요. 되풀이되면 운영자에게 작업 번호 {job_id}을(를) 알려 주세요.",
        "The answer could not be made ({reason}).",
        "Try again; if it happens again, tell the operator the job id {job_id}.",
    )
    JOB_EXPIRED = (
        "expired",
        "차례를 기다리다 제한 시간이 지났습니다.",
        "지금은 질문이 많습니다. 잠시 뒤에 다시 시도해 주세요.",
        "The question waited in the queue for too long.",
        "The service is busy; try again later.",
    )
    JOB_LATE = (
        "deadline",
        "제한 시간 안에 답을 마치지 못했습니다.",
        "더 짧은 답을 부탁하거나 잠시 뒤에 다시 시도해 주세요.",
        "The answer was not finished in time.",
        "Ask for a shorter answer, or try again later.",
    )
    JOB_CANCELLED = (
        "job_cancelled",
        "작업이 취소되었습니다.",
        "필요하면 다시 보내 주세요.",
        "The job was cancelled.",
        "Send it again if you need it.",
    )
    NO_SUCH_PATH = (
        "path_not_found",
        "{path}라는 주소가 없습니다.",
        "쓸 수 있는 주소는 /docs에 있습니다.",
        "There is nothing at {path}.",
        "See /docs for what there is.",
    )
    WRONG_METHOD = (
        "method_not_allowed",
        "{path}에는 이 방법으로 요청할 수 없습니다.",
        "GET, POST, DELETE 가운데 맞는 것을 /docs에서 확인해 주세요.",
        "{path} does not take this method.",
        "See /docs for the right one.",
    )
    REFUSED = (
        "refused",
        "요청을 처리할 수 없습니다.",
        "/docs에서 요청 형식을 확인해 주세요.",
        "The request cannot be served.",
        "See /docs for the form of a request.",
    )

    @property
    def code(self) -> str:
        return str(self.value[0])

    def render(self, language: str, values: dict[str, Any]) -> tuple[str, str]:
        """Message and remedy in "ko" or "en". near, among the values: what was perhaps meant."""
        _, *texts = self.value
        message, remedy = texts[:2] if language == "ko" else texts[2:]
        if values.get("near"):
            remedy = f"{_DID_YOU_MEAN[language]} {remedy}"
        return message.format(**values), remedy.format(**values)


_DID_YOU_MEAN = {"ko": "혹시 ‘{near}’인가요?", "en": "Did you mean '{near}'?"}


def choose_language(accept_language: str) -> str:
    """Give "ko" or "en" by the header's order of preference (RFC 9110, 12.5.4); English where neither is asked for."""
    weighted: list[tuple[float, str]] = []
    for part in accept_language.split(","):
        tag, _, parameters = part.strip().partition(";")
        quality = parameters.strip().lower().removeprefix("q=") if parameters else "1"
        try:
            weighted.append((-float(quality), tag.strip().lower().split("-")[0]))
        except ValueError:
            continue
    wanted = [tag for weight, tag in sorted(weighted, key=lambda pair: pair[0]) if weight < 0 and tag in {"ko", "en"}]
    return wanted[0] if wanted else "en"


_TYPES = {
    "string_type": "text",
    "int_type": "integer",
    "int_parsing": "integer",
    "int_from_float": "integer",
    "float_type": "number",
    "float_parsing": "number",
    "bool_type": "true/false",
    "bool_parsing": "true/false",
    "list_type": "list",
    "dict_type": "object",
    "model_attributes_type": "object",
}
_LIMITS = {"greater_than_equal": "≥ {ge}", "less_than_equal": "≤ {le}", "greater_than": "> {gt}", "less_than": "< {lt}"}


_TEXTS = {
    "json_invalid": Text.JSON_INVALID,
    "last_message_not_user": Text.LAST_NOT_USER,
    "missing": Text.MISSING,
    "extra_forbidden": Text.UNKNOWN_FIELD,
    "enum": Text.NOT_A_CHOICE,
    "literal_error": Text.NOT_A_CHOICE,
    "string_too_short": Text.TOO_SHORT,
    "too_short": Text.TOO_SHORT,
    "string_too_long": Text.TOO_LONG,
    "too_long": Text.TOO_LONG,
    **dict.fromkeys(_TYPES, Text.WRONG_TYPE),
    **dict.fromkeys(_LIMITS, Text.OUT_OF_RANGE),
}


def validation_text(error: dict[str, Any]) -> tuple[Text, dict[str, Any]]:
    """Our words for one of pydantic's errors, never its input: that may be a prompt."""
    kind, context = error["type"], error.get("ctx", {})
    values = {
        "position": error["loc"][-1],
        "expected": context.get("expected") or _TYPES.get(kind, ""),
        "limit": context.get("min_length") or context.get("max_length") or _LIMITS.get(kind, "").format(**context),
        "reason": error["msg"],
    }
    return _TEXTS.get(kind, Text.INVALID), values
