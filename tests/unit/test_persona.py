import json
import os
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from dure import persona
from dure.errors import PersonaError, PersonaUnknown
from dure.job import JobPayload, Message, Persona, Sampling
from dure.persona import PERSONALITIES, STYLES, Personas, shipped

ROOT = Path(__file__).parents[2]
ALL = list(product(STYLES, PERSONALITIES))
OLD = [names for names in ALL if names[0] != "intimate"]
QUESTION = Message("user", "등본 떼러 왔는데요.")

STYLE = """
title = {ko = "사투리", en = "Dialect"}
system = "경상도 말로 답합니더."
register = "polite"
"""
CLERK = """
title = {ko = "구청 민원 안내", en = "District office"}
introduction = "당신은 구청 안내원입니다."
system = "창구를 알려 줍니다."
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "styles").mkdir()
    (tmp_path / "personalities").mkdir()
    return tmp_path


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(folder: Path) -> str:
    with pytest.raises(PersonaError) as caught:
        persona.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def resolved(personas: Personas, *names: str | None, **changes: Any) -> JobPayload:
    return personas.resolved(JobPayload([QUESTION], *names, **changes))


def test_the_shipped_ones_come_in_the_order_of_the_page() -> None:
    assert tuple(shipped().styles) == STYLES
    assert tuple(shipped().personalities) == PERSONALITIES


def test_every_file_that_is_shipped_is_one_of_them() -> None:
    files = {path.stem for path in (ROOT / "shared" / "dure" / "personas").rglob("*.toml")}
    assert files == {*STYLES, *PERSONALITIES}


@pytest.mark.parametrize(("style", "personality"), ALL)
def test_each_style_and_personality_has_a_korean_text(style: str, personality: str) -> None:
    text = shipped().persona(style, personality).system
    num_hangul = len(re.findall(r"[가-힣]", text))
    assert num_hangul > len(text) / 2
    assert not re.search(r"[A-Za-z{}]", text)


def test_no_two_personas_say_the_same() -> None:
    assert len({shipped().persona(*names).system for names in ALL}) == len(ALL)


def test_who_names_nothing_gets_polite_and_helpful_and_no_register() -> None:
    assert shipped().persona(None, None) == replace(shipped().persona("polite", "helpful"), register=None)


@pytest.mark.parametrize(
    ("style", "register"), [("polite", "formal"), ("casual", "polite"), ("intimate", "plain"), ("expert", "formal")]
)
def test_each_style_has_the_register_that_it_speaks_in(style: str, register: str) -> None:
    assert shipped().persona(style, None).register == register


@pytest.mark.parametrize(
    ("style", "personality", "field", "near"),
    [
        ("반말", None, "style", None),
        ("", None, "style", None),
        ("\ud800", None, "style", None),
        ("POLITE", None, "style", None),
        ("polite ", None, "style", "polite"),
        ("casul", None, "style", "casual"),
        (None, "친절", "personality", None),
        ("polite", "Warm", "personality", "warm"),
        ("warm", None, "style", None),
        ("가" * 200_000, None, "style", None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_unknown_name_is_refused_with_the_known_ones_and_not_repeated(
    style: str | None, personality: str | None, field: str, near: str | None
) -> None:
    with pytest.raises(PersonaUnknown) as caught:
        resolved(shipped(), style, personality)
    error = caught.value
    assert (error.field, error.near) == (field, near)
    assert error.known == list(STYLES if field == "style" else PERSONALITIES)
    assert (style if field == "style" else personality) not in str(error).split()


@pytest.mark.parametrize("names", OLD, ids="-".join)
def test_shipped_names_travel_as_workers_of_every_release_read_them(names: tuple[str, str]) -> None:
    before = JobPayload([QUESTION], *names)
    assert resolved(shipped(), *names).to_json() == before.to_json()
    assert before.schema == 1


def test_a_style_that_older_workers_do_not_know_travels_with_its_text() -> None:
    payload = resolved(shipped(), "intimate", "warm")
    assert (payload.style, payload.personality, payload.schema) == ("intimate", "warm", 4)
    assert payload.persona == shipped().persona("intimate", "warm")
    assert JobPayload.from_json(payload.to_json()) == payload


def test_where_no_style_is_named_the_personality_speaks_in_its_own(folder: Path) -> None:
    write(folder, "personalities/clerk.toml", CLERK + 'style = "casual"')
    personas = persona.load(folder)
    assert resolved(personas, None, "clerk").style == "casual"
    assert resolved(personas, "expert", "clerk").style == "expert"
    assert resolved(personas, None, "warm").style == "polite"


def test_an_own_personality_travels_with_text_examples_and_register(folder: Path) -> None:
    write(folder, "styles/dialect.toml", STYLE + '[[examples]]\nuser = "밥은?"\nassistant = "뭇나?"')
    write(folder, "personalities/clerk.toml", CLERK + '[[examples]]\nuser = "등본은요?"\nassistant = "3번 창구입니다."')
    payload = resolved(persona.load(folder), "dialect", "clerk")
    assert payload.persona == Persona(
        "당신은 구청 안내원입니다. 경상도 말로 답합니더. 창구를 알려 줍니다.",
        [
            Message("user", "밥은?"),
            Message("assistant", "뭇나?"),
            Message("user", "등본은요?"),
            Message("assistant", "3번 창구입니다."),
        ],
        "polite",
    )


def test_a_requests_own_values_go_before_the_personalitys_and_these_before_the_styles(folder: Path) -> None:
    sampling = "[sampling]\ntemperature = {}\ntop_k = {}\ndry_multiplier = {}"
    write(folder, "styles/dialect.toml", STYLE + 'edits = ["josa"]\n' + sampling.format(0.1, 1, 0.1))
    write(
        folder, "personalities/clerk.toml", CLERK + "edits = []\n" + sampling.format(1, 2, 0.2).replace("top_k = 2", "")
    )
    personas = persona.load(folder)
    payload = resolved(personas, "dialect", "clerk", sampling=Sampling(temperature=0.0, seed=3))
    assert payload.sampling == Sampling(temperature=0.0, top_k=1, seed=3, dry_multiplier=0.2)
    assert payload.edits == []
    assert resolved(personas, "dialect", "warm").edits == ["josa"]
    assert resolved(personas, "dialect", "clerk", edits=["unicode"]).edits == ["unicode"]
    assert resolved(personas, "polite", "warm").sampling == Sampling()


def test_sampling_of_a_file_with_a_shipped_name_needs_no_newer_worker_for_its_text(folder: Path) -> None:
    text = (ROOT / "shared" / "dure" / "personas" / "styles" / "polite.toml").read_text("utf-8")
    write(folder, "styles/polite.toml", text + "[sampling]\ntemperature = 0.5")
    payload = resolved(persona.load(folder), "polite", "warm")
    assert (payload.persona, payload.sampling, payload.schema) == (None, Sampling(temperature=0.5), 1)


def test_an_own_file_takes_the_place_of_a_shipped_one_and_its_place_in_the_order(folder: Path) -> None:
    write(folder, "styles/casual.toml", STYLE)
    write(folder, "styles/aaa.toml", STYLE)
    write(folder, "personalities/clerk.toml", CLERK)
    personas = persona.load(folder)
    assert list(personas.styles) == [*STYLES, "aaa"]
    assert list(personas.personalities) == [*PERSONALITIES, "clerk"]
    assert personas.styles["casual"].title.ko == "사투리"
    assert resolved(personas, "casual", "warm").persona == personas.persona("casual", "warm")
    assert resolved(personas, "polite", "warm").persona is None
    assert shipped().styles["casual"].title.ko != "사투리"


def test_a_replaced_default_speaks_for_those_who_name_nothing_but_not_over_their_own_words(folder: Path) -> None:
    write(folder, "personalities/helpful.toml", CLERK + "[sampling]\ntemperature = 0.5")
    personas = persona.load(folder)
    payload = resolved(personas)
    assert payload.persona is not None
    assert payload.persona.system.startswith("당신은 구청 안내원입니다.")
    assert (payload.style, payload.personality, payload.persona.register) == (None, None, None)
    assert payload.sampling.temperature == 0.5
    own = JobPayload([Message("system", "짧게."), QUESTION])
    assert personas.resolved(own) == own
    assert resolved(shipped()) == JobPayload([QUESTION])


def test_titles_are_listed_in_both_languages(folder: Path) -> None:
    write(folder, "personalities/clerk.toml", CLERK)
    listed = json.loads(json.dumps(persona.load(folder).listed()))
    assert [one["name"] for one in listed["styles"]] == list(STYLES)
    assert listed["personalities"][-1] == {"name": "clerk", "title": {"ko": "구청 민원 안내", "en": "District office"}}


@pytest.mark.parametrize("readme", ["README.md", "README.ko.md"])
def test_the_example_of_the_readme_is_one_that_is_taken(folder: Path, readme: str) -> None:
    (example,) = re.findall(r"(?s)```toml\n(.*?)```", (ROOT / readme).read_text("utf-8"))
    write(folder, "personalities/clerk.toml", example)
    assert resolved(persona.load(folder), None, "clerk").persona


WRONG = [
    (
        "styles/a.toml",
        STYLE.replace("system", "sytem"),
        "system is missing: add it; sytem is not known: use title, sys",
    ),
    ("styles/a.toml", STYLE.replace('register = "polite"', ""), "register is missing"),
    (
        "styles/a.toml",
        STYLE.replace('"polite"', '"written"'),
        "register: Input should be 'formal', 'polite' or 'plain'",
    ),
    ("styles/a.toml", STYLE + 'style = "polite"', "style is not known: use .*register"),
    ("styles/a.toml", STYLE + "[sampling]\ntemperature = 2.5", "sampling.temperature: .*less than or equal to 2"),
    ("styles/a.toml", STYLE + "[sampling]\ntemperature = nan", "sampling.temperature: .*less than"),
    ("styles/a.toml", STYLE + "[sampling]\ntop_k = 5.0", "sampling.top_k: .*integer"),
    ("styles/a.toml", STYLE + "[sampling]\ntop_k = true", "sampling.top_k: .*integer"),
    ("styles/a.toml", STYLE + "[sampling]\nseed = 5", "sampling.seed is not known: use temperature, "),
    ("styles/a.toml", STYLE + 'edits = ["grammar"]', "edits.0: .*'josa'"),
    ("styles/a.toml", STYLE + 'edits = "josa"', "edits: .*list"),
    ("styles/a.toml", STYLE + '[[examples]]\nuser = "밥은?"', "examples.0.assistant is missing"),
    (
        "styles/a.toml",
        STYLE + '[[examples]]\nuser = "밥은?"\nasistant = "뭇나?"',
        "asistant is not known: use user, ass",
    ),
    ("styles/a.toml", STYLE + '[[examples]]\nuser = " "\nassistant = "뭇나?"', "examples.0.user is empty"),
    ("styles/a.toml", STYLE + '[[examples]]\nuser = "밥"\nassistant = "밥"\n' * 5, "examples: .*at most 4"),
    ("styles/a.toml", STYLE + f'[[examples]]\nuser = "{"밥" * 501}"\nassistant = "밥"', "user: .*at most 500"),
    ("personalities/a.toml", CLERK + 'register = "polite"', "register is not known: use .*introduction, style"),
    ("personalities/a.toml", CLERK + 'style = "dialect"', "style = 'dialect' is no style: use one of polite, "),
    ("personalities/a.toml", CLERK + "style = 5", "style: .*string"),
    ("personalities/a.toml", CLERK + 'name = "b"', "name is not known"),
    ("personalities/a.toml", CLERK.replace("창구를 알려 줍니다.", ""), "system is empty: write a text"),
    ("personalities/a.toml", CLERK.replace("창구를 알려 줍니다.", " \u3000"), "system is empty"),
    ("personalities/a.toml", CLERK.replace("창구를", "창" * 1000), "system: .*at most 1000"),
    ("personalities/a.toml", CLERK.replace("당신은 구청 안내원입니다.", ""), "introduction is empty"),
    ("personalities/a.toml", CLERK.replace(', en = "District office"', ""), "title.en is missing"),
    ("personalities/a.toml", CLERK.replace('{ko = "구청 민원 안내", en = "District office"}', '"안내"'), "title: "),
    ("personalities/a.toml", CLERK.replace("구청 민원", "구" * 41), "title.ko: .*at most 40"),
    ("personalities/a.toml", "title = {ko = 구청}", "line 1.*quotation marks"),
    ("personalities/a.toml", CLERK + 'system = "두 번"\n', "line 5.*TOML"),
    ("personalities/a.toml", "", "title is missing.*system is missing"),
    ("personalities/a.toml", CLERK.encode("euc-kr"), "byte 17 is not UTF-8: save the file as UTF-8"),
    ("personalities/Clerk.toml", CLERK, "Clerk.toml: a name has .*rename"),
    ("personalities/민원.toml", CLERK, "민원.toml: a name has .*rename"),
    ("personalities/a.b.toml", CLERK, "a.b.toml: a name has .*rename"),
    ("personalities/-a.toml", CLERK, "-a.toml: a name has .*rename"),
    (f"personalities/{'a' * 33}.toml", CLERK, "up to 32.*rename"),
    ("clerk.toml", CLERK, "clerk.toml is neither .*move it to styles/ or personalities/"),
    ("personality/a.toml", CLERK, "a.toml is neither .*move it"),
    ("personalities/old/a.toml", CLERK, "a.toml is neither .*move it"),
    ("personalities/a.toml/b.toml", CLERK, "b.toml is neither .*move it"),
]


@pytest.mark.parametrize(("name", "text", "said"), WRONG, ids=range(len(WRONG)))
def test_a_file_that_cannot_be_used_is_named_with_the_place_and_the_remedy(
    folder: Path, name: str, text: str | bytes, said: str
) -> None:
    path = write(folder, name, text)
    message = refusal(folder)
    assert message.startswith(str(path))
    assert re.search(said, message), message


def test_a_personality_may_speak_in_an_own_style_also_where_it_replaces_a_shipped_one(folder: Path) -> None:
    write(folder, "styles/dialect.toml", STYLE)
    write(folder, "personalities/warm.toml", CLERK + 'style = "dialect"')
    assert resolved(persona.load(folder), None, "warm").style == "dialect"
    (folder / "styles" / "dialect.toml").unlink()
    assert refusal(folder).startswith(str(folder / "personalities" / "warm.toml"))


def test_what_is_no_toml_file_is_nobodys_business(folder: Path) -> None:
    for name in ("README.md", "styles/README", "styles/a.toml.bak", "styles/.#a.toml", ".git/a.toml", "other/a.txt"):
        write(folder, name, "이것은 아무것도 아닙니다.")
    assert persona.load(folder) == shipped()


@pytest.mark.parametrize("mark", ["\ufeff", ""])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_files_of_other_systems_editors_are_read(folder: Path, mark: str, line_end: str) -> None:
    write(folder, "personalities/clerk.toml", mark + CLERK.replace("\n", line_end))
    assert "clerk" in persona.load(folder).personalities


def test_a_folder_without_subfolders_adds_nothing(tmp_path: Path) -> None:
    assert persona.load(tmp_path) == shipped()


def test_a_folder_that_is_named_must_be_there(tmp_path: Path) -> None:
    assert "none cannot be read (No such file or directory)" in refusal(tmp_path / "none")
    assert "Not a directory" in refusal(write(tmp_path, "file", ""))


def test_subfolders_may_be_links_and_links_in_circles_are_not_followed(folder: Path, tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/clerk.toml", CLERK)
    own = tmp_path / "own"
    own.mkdir()
    (own / "personalities").symlink_to(tmp_path / "elsewhere")
    (own / "again").symlink_to(own)
    assert "clerk" in persona.load(own).personalities


def test_a_broken_link_is_no_file_that_may_be_left_out(folder: Path) -> None:
    (folder / "styles" / "a.toml").symlink_to(folder / "nowhere")
    assert "a.toml: cannot be read (No such file or directory)" in refusal(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_subfolder_that_may_not_be_read_is_not_taken_for_an_empty_one(folder: Path) -> None:
    (folder / "styles").chmod(0)
    assert "styles cannot be read (Permission denied)" in refusal(folder)


def test_an_operators_own_lie_in_the_state_folder_unless_another_is_named(tmp_path: Path) -> None:
    assert persona.own_folder(None, tmp_path) is None
    (tmp_path / "personas").mkdir()
    assert persona.own_folder(None, tmp_path) == tmp_path / "personas"
    assert persona.own_folder(tmp_path / "none", tmp_path) == tmp_path / "none"
