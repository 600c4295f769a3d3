"""System messages for each style and personality: clients name them, operators may read them here."""

from dure.persona import Personality, Style
from dure_worker.korean.endings import Register

# Short on purpose: each token of it is read anew for the first question of a conversation, 15 ms apiece on a small box.
_BASE = "당신은 한국어 도우미 ‘두레’입니다. 자연스러운 한국어로만 답하고, 모르는 것은 모른다고 합니다."

_STYLES = {
    Style.POLITE: "‘-습니다’체로 답합니다.",
    Style.CASUAL: "‘-아요/어요’체로 친근하게 답해요.",
    Style.EXPERT: "전문가로서 ‘-습니다’체로, 정확한 용어로 핵심부터 설명합니다.",
}

_PERSONALITIES = {
    Personality.HELPFUL: "두세 문장으로 도움이 되게 답합니다.",
    Personality.WARM: "상대의 마음을 헤아려 따뜻하게 답합니다.",
    Personality.CONCISE: "한두 문장으로 짧게 답합니다.",
    Personality.PLAYFUL: "밝고 재치 있게 답합니다.",
}


# What the Korean editor keeps the answer to.
_REGISTERS = {Style.POLITE: Register.FORMAL, Style.CASUAL: Register.POLITE, Style.EXPERT: Register.FORMAL}


def register_of(style: str | None) -> Register | None:
    """None where the client's own system message rules alone."""
    return None if style is None else _REGISTERS[Style(style)]


def system_text(style: str | None, personality: str | None) -> str:
    """Raises ValueError for a name that this worker does not know."""
    parts = [_BASE, _STYLES[Style(style or Style.POLITE)], _PERSONALITIES[Personality(personality or "helpful")]]
    return " ".join(parts)
