"""Styles and personalities: how an answer speaks. Each is a TOML file; operators may add their own.

    title         what the page calls it, {ko = "…", en = "…"}
    system        its part of the system message
    register      of a style: formal (합쇼체), polite (해요체) or plain (해체)
    introduction  of a personality: says who answers, in place of “당신은 한국어 도우미 ‘두레’입니다. …”
    style         of a personality: the one it speaks in where a request names none. Default: polite
    [sampling]    values for requests that have none of their own. A personality's go before its style's
    edits         the same for the passes of the Korean editor that may run (`dure.edits.Pass`)
    [[examples]]  turns put before every conversation, user = "…" and assistant = "…"

The name is that of the file: styles/NAME.toml, personalities/NAME.toml.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from dure.edits import Pass
from dure.errors import PersonaError, PersonaUnknown
from dure.job import JobPayload, Message, Persona, RegisterName, Role
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

# Those that are shipped, in the order in which people see them.
STYLES = ("polite", "casual", "intimate", "expert")
PERSONALITIES = ("helpful", "warm", "concise", "playful")
DEFAULT_STYLE = "polite"
DEFAULT_PERSONALITY = "helpful"

# Workers of before schema 4 know these by name, and no others.
_OLD_STYLES = (None, "polite", "casual", "expert")
_OLD_PERSONALITIES = (None, "helpful", "warm", "concise", "playful")

_SHIPPED = Path(__file__).with_name("personas")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")

# This and the shipped texts are short on purpose: each token is read anew for the first question of a conversation,
# 15 ms apiece on a small box.
_INTRODUCTION = "당신은 한국어 도우미 ‘두레’입니다. 자연스러운 한국어로만 답하고, 모르는 것은 모른다고 합니다."

Label = Annotated[str, StringConstraints(pattern=r"\S", max_length=40)]
SystemText = Annotated[str, StringConstraints(pattern=r"\S", max_length=1000)]
Said = Annotated[str, StringConstraints(pattern=r"\S", max_length=500)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Title(_Part):
    ko: Label
    en: Label


class SamplingDefaults(_Part):
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    dry_multiplier: DryMultiplier | None = None
    dry_base: DryBase | None = None
    dry_allowed_length: DryAllowedLength | None = None


class Example(_Part):
    user: Said
    assistant: Said


class _Manner(_Part):
    title: Title
    system: SystemText
    sampling: SamplingDefaults = SamplingDefaults()
    # Not strict: TOML has no enums.
    edits: list[Annotated[Pass, Field(strict=False)]] | None = None
    examples: Annotated[list[Example], Field(max_length=4)] = []

    def turns(self) -> list[Message]:
        said: list[tuple[Role, str]] = []
        for example in self.examples:
            said += [("user", example.user), ("assistant", example.assistant)]
        return [Message(role, text) for role, text in said]


class Style(_Manner):
    # BaseModel has a `register` of its own.
    speaks: RegisterName = Field(alias="register")


class Personality(_Manner):
    introduction: SystemText = _INTRODUCTION
    style: str = DEFAULT_STYLE


M = TypeVar("M", Style, Personality)


@dataclass(frozen=True)
class Personas:
    """All that can be chosen: the shipped ones in their order, then an operator's own by name."""

    styles: dict[str, Style]
    personalities: dict[str, Personality]

    def persona(self, style: str | None, personality: str | None) -> Persona:
        """The two put together. Without a style the personality's own speaks, and the editor keeps to no register.

        Raises PersonaUnknown.
        """
        manner = self._personality(personality)
        voice = self._style(style, manner)
        return Persona(
            system=" ".join([manner.introduction, voice.system, manner.system]),
            examples=[*voice.turns(), *manner.turns()],
            register=None if style is None else voice.speaks,
        )

    def resolved(self, payload: JobPayload) -> JobPayload:
        """The payload with what its worker cannot know by the names in it, and with the persona's sampling and edits
        where it has none of its own. Without names a client's own system message rules alone.

        Raises PersonaUnknown.
        """
        is_named = payload.style is not None or payload.personality is not None
        if not is_named and any(message.role == "system" for message in payload.messages):
            return payload
        manner = self._personality(payload.personality)
        voice = self._style(payload.style, manner)
        if is_named and payload.style is None:
            payload = replace(payload, style=manner.style)
        persona = self.persona(payload.style, payload.personality)
        defaults = voice.sampling.model_dump(exclude_none=True) | manner.sampling.model_dump(exclude_none=True)
        missing = {name: value for name, value in defaults.items() if getattr(payload.sampling, name) is None}
        edits = voice.edits if manner.edits is None else manner.edits
        if payload.edits is None and edits is not None:
            payload = replace(payload, edits=[each.value for each in dict.fromkeys(edits)])
        return replace(
            payload,
            sampling=replace(payload.sampling, **missing),
            persona=None if _is_known_by_name(payload, persona) else persona,
        )

    def listed(self) -> dict[str, list[dict[str, Any]]]:
        return {
            "styles": [{"name": name, "title": each.title.model_dump()} for name, each in self.styles.items()],
            "personalities": [
                {"name": name, "title": each.title.model_dump()} for name, each in self.personalities.items()
            ],
        }

    def _personality(self, name: str | None) -> Personality:
        return _find("personality", self.personalities, DEFAULT_PERSONALITY if name is None else name)

    def _style(self, name: str | None, manner: Personality) -> Style:
        return _find("style", self.styles, manner.style if name is None else name)


@cache
def shipped() -> Personas:
    return load()


def load(folder: Path | None = None) -> Personas:
    """The shipped ones and the folder's, which replace shipped ones of the same name. Raises PersonaError."""
    paths: dict[str, dict[str, Path]] = {"styles": {}, "personalities": {}}
    for root in [_SHIPPED, *([folder] if folder else [])]:
        for path in _files(root):
            kind = path.parent.relative_to(root).as_posix()
            if kind not in paths:
                raise PersonaError(f"{path} is neither a style nor a personality: move it to styles/ or personalities/")
            paths[kind][path.stem] = path
    styles = {name: _read(path, Style) for name, path in _ordered(paths["styles"], STYLES).items()}
    ordered = _ordered(paths["personalities"], PERSONALITIES)
    personalities = {name: _read(path, Personality) for name, path in ordered.items()}
    for name, personality in personalities.items():
        if personality.style not in styles:
            known = ", ".join(styles)
            raise PersonaError(f"{ordered[name]}: style = {personality.style!r} is no style: use one of {known}")
    return Personas(styles, personalities)


def own_folder(named: Path | None, home: Path) -> Path | None:
    """Where an operator's own lie: the folder that is named, else `personas` in the state folder, if it is there."""
    default = home / "personas"
    # A state folder that may not be looked into is no reason to stop: the gateway needs nothing else in it.
    return named or (default if os.access(default, os.F_OK) else None)


def _is_known_by_name(payload: JobPayload, persona: Persona) -> bool:
    return (
        payload.style in _OLD_STYLES
        and payload.personality in _OLD_PERSONALITIES
        and persona == shipped().persona(payload.style, payload.personality)
    )


def _find(field: str, known: Mapping[str, M], name: str) -> M:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise PersonaUnknown(field, list(known), near[0] if near else None)
    return known[name]


def _ordered(paths: dict[str, Path], first: tuple[str, ...]) -> dict[str, Path]:
    return {name: paths[name] for name in [*first, *sorted(paths.keys() - set(first))]}


def _files(folder: Path) -> list[Path]:
    """All *.toml below the folder that are not hidden. A folder that may not be read is no empty one: PersonaError."""

    def refuse(error: OSError) -> None:
        if error.filename == str(folder) or not isinstance(error, FileNotFoundError):
            raise PersonaError(
                f"{error.filename} cannot be read ({error.strerror}): correct the path or its rights"
            ) from None

    found = set()
    # The walk follows no links, which may lead in circles, but where it begins.
    for top in (folder, folder / "styles", folder / "personalities"):
        for place, folders, names in os.walk(top, onerror=refuse):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found |= {Path(place, name) for name in names if name.endswith(".toml") and not name.startswith(".")}
    return sorted(found)


def _read(path: Path, kind: type[M]) -> M:
    if not _NAME.fullmatch(path.stem):
        raise PersonaError(
            f"{path}: a name has up to 32 small letters (a-z), digits, - and _, and begins with a letter or digit: "
            "rename the file"
        )
    try:
        # Some editors put a byte order mark before UTF-8.
        return kind.model_validate(tomllib.loads(path.read_text("utf-8-sig")))
    except OSError as error:
        what = f"cannot be read ({error.strerror}): correct its rights, or remove it"
    except UnicodeDecodeError as error:
        what = f"byte {error.start + 1} is not UTF-8: save the file as UTF-8"
    except tomllib.TOMLDecodeError as error:
        what = f"{error}: not TOML. Texts stand in quotation marks"
    except ValidationError as error:
        what = "; ".join(
            _explained(problem["type"], problem["loc"], problem["msg"], kind) for problem in error.errors()
        )
    raise PersonaError(f"{path}: {what}")


_PARTS: dict[int | str, type[_Part]] = {"title": Title, "sampling": SamplingDefaults, "examples": Example}


def _explained(error: str, place: tuple[int | str, ...], message: str, kind: type[_Part]) -> str:
    where = ".".join(map(str, place))
    if error == "extra_forbidden":
        fields = (_PARTS[place[0]] if len(place) > 1 else kind).model_fields
        return f"{where} is not known: use {', '.join(field.alias or name for name, field in fields.items())}"
    if error == "missing":
        return f"{where} is missing: add it"
    if error == "string_pattern_mismatch":
        return f"{where} is empty: write a text"
    return f"{where}: {message}"
