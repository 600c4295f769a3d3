"""Names of styles and personalities that a request may carry. Their texts live with the worker's conversation code."""

from enum import StrEnum


class Style(StrEnum):
    POLITE = "polite"  # 합쇼체
    CASUAL = "casual"  # 해요체
    EXPERT = "expert"  # 합쇼체, terms kept, structured


class Personality(StrEnum):
    HELPFUL = "helpful"
    WARM = "warm"
    CONCISE = "concise"
    PLAYFUL = "playful"
