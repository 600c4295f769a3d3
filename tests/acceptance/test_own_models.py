"""`dure model add`, and the manifest that proves a model's folder."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from dure import artifact, gguf
from dure.artifact import MANIFEST
from dure.gguf import Value, ValueType
from model_desk import Desk, make_model
from tiny_decoder import TinyDecoder


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "My Model.Q4_K_M.gguf")


def folder(desk: Desk, name: str) -> Path:
    return desk.home / "models" / name


def with_architecture(path: Path, name: str) -> Path:
    """The same file under another architecture's name."""
    source = gguf.read(path)
    values = {
        key.replace("qwen2.", f"{name}."): Value(ValueType.STRING, name) if key == "general.architecture" else value
        for key, value in source.values.items()
    }
    weights = b"".join(
        bytes(piece)
        for tensor in source.tensors.values()
        for piece in (*gguf.rows(source, tensor), gguf.padding(tensor.num_bytes, 32))
    )
    path.write_bytes(gguf.head(values, list(source.tensors.values())) + weights)
    return path


def test_an_added_model_is_listed_verified_planned_and_removed_like_any_other(desk: Desk, model: Path) -> None:
    added = json.loads(desk.run("add", model, "--json").stdout)
    assert added["name"] == "my-model.q4_k_m"
    assert added["engines"] == ["llama", "ark", "transformers"]
    assert Path(added["path"]).read_bytes() == model.read_bytes()
    rows = {row["name"]: row for row in desk.json("list")}
    row = rows[added["name"]]
    assert row["is_here"] and not row["is_in_catalogue"]  # noqa: PT018
    assert row["bytes"] == model.stat().st_size
    assert desk.json("verify", added["name"])["has_manifest"]
    assert desk.json("plan", added["name"], "--ram", "3GB")["fits"]
    desk.json("rm", added["name"], "--yes")
    assert not folder(desk, added["name"]).exists()


def test_the_manifest_says_all_about_it(desk: Desk, model: Path) -> None:
    desk.run("add", model, "--name", "mine")
    found = artifact.read(folder(desk, "mine"))
    assert found is not None
    assert found.files == {
        "model.gguf": {"bytes": model.stat().st_size, "sha256": hashlib.sha256(model.read_bytes()).hexdigest()}
    }
    assert (found.architecture, found.shapes["hidden"], found.shapes["kv_heads"]) == ("qwen2", 64, 2)
    assert found.tokenizer["tokens"] == len(gguf.read(model).get("tokenizer.ggml.tokens"))
    assert found.quantization["Q8_0"]["tensors"] == 2
    assert found.chat_template == "{{ 'hello' }}"
    assert "dure model add" in found.made["command"]
    assert found.made["versions"]["dure"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"architecture": "llama"}, "architecture is another"),
        ({"chat_template": "{{ 'bye' }}"}, "chat_template is another"),
        ({"quantization": {}}, "quantization is another"),
        ({"shapes": {}}, "shapes are missing"),
        ({"shapes": {"layers": 99}}, "shapes is another"),
        ({"schema": 99}, "has schema 99"),
        ({"surprise": 1}, "one too many"),
    ],
)
def test_a_manifest_that_lies_is_found_out(desk: Desk, model: Path, change: dict[str, Any], word: str) -> None:
    desk.run("add", model, "--name", "mine")
    path = folder(desk, "mine") / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), encoding="utf-8")
    said = desk.refused("verify", folder(desk, "mine"))
    assert word in said
    assert "dure model add" in said


def test_a_manifest_of_a_release_that_knew_less_of_shapes_is_believed(desk: Desk, model: Path) -> None:
    desk.run("add", model, "--name", "mine")
    path = folder(desk, "mine") / MANIFEST
    written = json.loads(path.read_text("utf-8"))
    del written["shapes"]["has_merges"]
    path.write_text(json.dumps(written), encoding="utf-8")
    assert "manifest.json" in desk.said("verify", folder(desk, "mine"))


def test_other_weights_than_the_manifests_are_found_out_and_never_served(desk: Desk, model: Path) -> None:
    desk.run("add", model, "--name", "mine")
    weights = folder(desk, "mine") / "model.gguf"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert "sha256" in desk.refused("verify", "mine")
    with pytest.raises(artifact.ModelCorrupt, match="is damaged"):
        artifact.require("mine", desk.home / "models")


def test_half_a_manifest_is_no_manifest(desk: Desk, model: Path) -> None:
    desk.run("add", model, "--name", "mine")
    path = folder(desk, "mine") / MANIFEST
    path.write_bytes(path.read_bytes()[:100])
    assert "cannot be read" in desk.refused("verify", folder(desk, "mine"))
    assert "mine" not in {row["name"] for row in desk.json("list")}
    assert desk.run("add", model, "--name", "mine").returncode == 0, "the remedy that is named helps"
    assert desk.json("verify", "mine")["has_manifest"]


def test_an_architecture_that_no_engine_runs_is_refused_and_nothing_stays(desk: Desk, model: Path) -> None:
    said = desk.refused("add", with_architecture(model, "whisper"), "--name", "ear")
    assert "whisper" in said
    assert "`llama` runs" in said
    assert not folder(desk, "ear").exists()


def test_a_broken_file_is_refused_and_nothing_stays(desk: Desk, model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-200])
    assert "cut short" in desk.refused("add", model, "--name", "cut")
    assert not folder(desk, "cut").exists()


def test_embeddings_that_are_not_the_vocabularys_are_refused(desk: Desk, tmp_path: Path) -> None:
    assert "rows" in desk.refused("add", make_model(tmp_path / "odd.gguf", rows=100))


def test_a_checkpoint_is_converted_and_becomes_a_model_like_any_other(desk: Desk, tmp_path: Path) -> None:
    checkpoint = TinyDecoder.make("qwen3").write(tmp_path / "checkpoint")
    added = json.loads(desk.run("add", checkpoint, "--name", "mine", "--precision", "q8_0", "--json").stdout)
    assert (added["architecture"], added["engines"]) == ("qwen3", ["llama", "ark", "transformers"])
    assert added["has_chat_template"]
    manifest = artifact.read(folder(desk, "mine"))
    assert manifest is not None
    assert set(manifest.quantization) == {"Q8_0", "F32"}
    assert desk.json("verify", "mine")["has_manifest"]
    assert {path.name for path in (desk.home / "models").iterdir()} == {"mine"}


def test_a_checkpoint_that_cannot_be_converted_is_refused_with_what_can(desk: Desk, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    assert "config.json" in desk.refused("add", checkpoint)
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "exaone"}))
    said = desk.refused("add", checkpoint)
    assert "exaone" in said
    assert "convert_hf_to_gguf.py" in said
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    assert "neither model.safetensors nor" in desk.refused("add", checkpoint)


@pytest.mark.parametrize("name", ["scripted", "a/b", "..", "x" * 65])
def test_a_bad_name_is_refused(desk: Desk, model: Path, name: str) -> None:
    assert "is no name for a model" in desk.refused("add", model, f"--name={name}")


def test_a_name_that_another_model_has_is_refused(desk: Desk, model: Path, tmp_path: Path) -> None:
    assert "another model is called" in desk.refused("add", model, "--name", "qwen2.5-coder-0.5b-korean")
    desk.run("add", model, "--name", "mine")
    other = make_model(tmp_path / "other.gguf", ballast_rows=3)
    assert "another model is called mine" in desk.refused("add", other, "--name", "mine")
    assert desk.run("add", model, "--name", "mine").returncode == 0, "the same again is no fault"


def test_what_is_not_there_is_said(desk: Desk) -> None:
    assert "is not there" in desk.refused("add", "nothing.gguf")
    assert "DURE_HUB_URL is empty" in desk.refused("add", "owner/name", DURE_HUB_URL="")


class Hub:
    """Answers as a model hub does for one repository."""

    def __init__(self, files: dict[str, bytes]) -> None:
        blobs = [
            {
                "rfilename": name,
                "size": len(data),
                "lfs": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()},
            }
            for name, data in files.items()
        ]
        told = json.dumps({"siblings": [*blobs, {"rfilename": "README.md"}], "cardData": {"license": "mit"}}).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                name = path.rsplit("/", 1)[-1]
                body = told if path == "/api/models/Dure/Fake" else files.get(name)
                self.send_response(200 if body else 404)
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self) -> "Hub":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def hub(model: Path, tmp_path: Path) -> Iterator[Hub]:
    other = make_model(tmp_path / "large.gguf", ballast_rows=9)
    with Hub({"fake-Q4_K_M.gguf": model.read_bytes(), "fake-Q8_0.gguf": other.read_bytes()}) as hub:
        yield hub


def test_a_repository_of_a_hub_gives_its_q4_k_m_or_the_file_that_is_named(desk: Desk, hub: Hub) -> None:
    added = json.loads(desk.run("add", "Dure/Fake", "--json", DURE_HUB_URL=hub.url).stdout)
    assert added["name"] == "fake-q4_k_m"
    larger = json.loads(desk.run("add", "Dure/Fake", "--file=fake-Q8_0.gguf", "--json", DURE_HUB_URL=hub.url).stdout)
    assert larger["bytes"] > added["bytes"]
    licences = {row["name"]: row["licence"] for row in desk.json("list")}
    assert licences["fake-q8_0"] == "mit"
    said = desk.refused("add", "Dure/Fake", "--file=none.gguf", DURE_HUB_URL=hub.url)
    assert "fake-Q4_K_M.gguf, fake-Q8_0.gguf" in said
    assert "cannot be had" in desk.refused("add", "Dure/Other", DURE_HUB_URL=hub.url)
