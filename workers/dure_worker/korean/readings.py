"""How a word ends when it is read aloud, which decides the particle behind it."""

import re
from string import ascii_letters

_FIRST, _LAST, _FINALS = ord("가"), ord("힣"), 28
RIEUL = 8
# Digits: 영 일 이 삼 사 오 육 칠 팔 구.
_DIGITS = {"0": "영", "1": "일", "2": "이", "3": "삼", "4": "사", "5": "오", "6": "육", "7": "칠", "8": "팔", "9": "구"}
# Zeros at the end: 십 백 천 만 십만 백만 천만 억 …
_POWERS = ("", "십", "백", "천", "만", "만", "만", "만", "억", "억", "억", "억", "조")
# Names of letters.
_LETTERS = {
    "a": "이", "b": "비", "c": "시", "d": "디", "e": "이", "f": "프", "g": "지", "h": "치", "i": "이", "j": "이",
    "k": "이", "l": "엘", "m": "엠", "n": "엔", "o": "오", "p": "피", "q": "큐", "r": "알", "s": "스", "t": "티",
    "u": "유", "v": "이", "w": "유", "x": "스", "y": "이", "z": "트",
}  # fmt: skip
# Words as they are read in Korean: what their last letter does not tell.
_WORDS = {
    "python": "파이썬", "java": "자바", "javascript": "스크립트", "typescript": "스크립트", "docker": "도커",
    "linux": "리눅스", "windows": "윈도우", "google": "구글", "apple": "애플", "github": "깃허브", "git": "깃",
    "redis": "레디스", "celery": "셀러리", "react": "리액트", "vue": "뷰", "node": "노드", "excel": "엑셀",
    "word": "워드", "file": "파일", "email": "이메일", "mail": "메일", "web": "웹", "app": "앱", "server": "서버",
    "client": "클라이언트", "api": "아이", "url": "엘", "html": "엘", "sql": "엘", "xml": "엘", "json": "슨",
    "css": "스", "cpu": "유", "gpu": "유", "ram": "램", "rom": "롬", "usb": "비", "pc": "시", "tv": "이", "ai": "이",
    "it": "티", "key": "키", "token": "토큰", "model": "모델", "class": "클래스", "object": "오브젝트",
    "list": "리스트", "string": "스트링", "function": "펑션", "code": "코드", "data": "데이터", "database": "베이스",
    "table": "테이블", "test": "테스트", "user": "유저", "username": "네임", "name": "네임", "password": "워드",
    "youtube": "튜브", "facebook": "북", "instagram": "램", "twitter": "터", "netflix": "스", "chrome": "크롬",
    "android": "드", "iphone": "폰", "samsung": "성", "amazon": "존", "microsoft": "트", "openai": "이",
    "chatgpt": "티", "gpt": "티", "blog": "그", "site": "트", "website": "트", "page": "지", "link": "크",
    "image": "지", "video": "오", "game": "임", "team": "팀", "coffee": "피", "pizza": "자", "hotel": "텔",
    "bus": "스", "taxi": "시", "seoul": "울", "korea": "아", "english": "시", "import": "트", "return": "턴",
    "print": "트", "for": "포", "while": "일", "if": "프", "else": "스", "true": "루", "false": "스", "none": "넌",
    "null": "널", "int": "트", "float": "트", "bool": "불", "dict": "트", "set": "셋", "tuple": "플",
}  # fmt: skip
# Behind a number.
_UNITS = {
    "g": "램", "kg": "램", "mg": "램", "t": "톤", "m": "터", "km": "터", "cm": "터", "mm": "터", "nm": "터", "l": "터",
    "ml": "터", "dl": "터", "cc": "시", "w": "트", "kw": "트", "v": "트", "hz": "츠", "khz": "츠", "mhz": "츠",
    "ghz": "츠", "kcal": "리", "cal": "리", "b": "트", "kb": "트", "mb": "트", "gb": "트", "tb": "트", "bps": "스",
    "db": "벨", "ha": "르", "pt": "트", "px": "셀", "dpi": "이", "rpm": "엠", "kwh": "시", "mah": "시",
}  # fmt: skip
# Endings of English words that are read with a final consonant.
_CLOSED = ("ng", "n", "m", "l", "le", "me", "ne", "b", "ck", "ll")
_VOWELS = re.compile("[aeiouy]")
_NAMED_BY_LETTER = re.compile(r"[A-Za-z][0-9]+$")


def bare(word: str) -> str:
    """Without the brackets and marks behind it."""
    return word.rstrip("\"'”’)]」』》〉*`")


def final(word: str) -> int | None:
    """The final consonant of its last syllable as Unicode numbers them: 0 none, 8 ㄹ. None: it is not known.

    word: Hangul, Latin letters or digits at its end; brackets and marks behind them do not count.
    """
    word = bare(word)
    if not word:
        return None
    last = word[-1]
    if _FIRST <= ord(last) <= _LAST:
        return (ord(last) - _FIRST) % _FINALS
    if last.isascii() and last.isdigit():
        # A0, v2: read in more ways than one.
        return None if _NAMED_BY_LETTER.search(word) else _final_of(_number(word))
    if last.isascii() and last.isalpha():
        return _of_latin(word)
    return None


def _final_of(syllables: str) -> int:
    return (ord(syllables[-1]) - _FIRST) % _FINALS


def _number(word: str) -> str:
    digits = word[len(word.rstrip("0123456789")) :]
    zeros = len(digits) - len(digits.rstrip("0"))
    if zeros == len(digits):
        return "영"
    if word[: len(word) - len(digits)].endswith("."):
        return _DIGITS[digits[-1]]  # behind a point each digit is read alone
    return _POWERS[min(zeros, len(_POWERS) - 1)] if zeros else _DIGITS[digits[-1]]


def _of_latin(word: str) -> int | None:
    letters = word[len(word.rstrip(ascii_letters)) :]
    low = letters.lower()
    is_unit = word[: len(word) - len(letters)][-1:].isdigit()
    if known := (is_unit and _UNITS.get(low)) or _WORDS.get(low):
        return _final_of(known)
    if letters.isupper() or len(letters) == 1:
        found = _final_of(_LETTERS[letters[-1].lower()])
        # ONE, NATO: where there are vowels it may be read as a word.
        is_word = len(letters) > 2 and bool(_VOWELS.search(low))  # noqa: PLR2004
        return found if not is_word or found == _of_word(low) else None
    return _of_word(low)


def _of_word(low: str) -> int | None:
    if low.endswith(("l", "ll", "le")):
        return RIEUL
    if low.endswith(_CLOSED):
        return 4
    # Other words are read in more ways than one.
    return 0 if low[-1] in "aiouy" else None
