"""A model as it lies on disk: a folder with model.gguf and manifest.json, which says everything about it.

models/{name}/
├── model.gguf       the weights with vocabulary and chat template
├── manifest.json    what this module writes and proves
├── verified.json    which bytes were read through last, and when the file had changed (of this machine alone)
└── fetch.lock       held by whoever makes or deletes it
"""

import json
import os
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from dure import catalog, gguf, memory_plan
from dure.catalog import CatalogModel
from dure.errors import ModelCorrupt, ModelError, ModelMissing, ModelUnknown
from dure.gguf import Gguf
from dure.one_step import one_step

# Raised when a field changes its meaning. A newer manifest is not guessed at.
SCHEMA = 1
MANIFEST = "manifest.json"
WEIGHTS = "model.gguf"


@dataclass(frozen=True)
class Manifest:
    """What is known of a model's folder. Sizes in bytes.

    source        where the bytes came from, as a user would name it
    files         name → {"bytes", "sha256"}
    shapes        layers, hidden, heads, … as memory_plan.Shape has them
    tokenizer     kind, pre-tokenizer, number of tokens, ids of the special ones
    quantization  kind of weights → {"tensors", "bytes"}
    vocabulary    report of a trimming: script → {"before", "after"} in tokens; empty for a whole vocabulary
    made          command, base model with its sha256, versions
    measured      memory and speed, one entry for each kind of CPU (`dure model bench`)
    """

    name: str
    title: str
    source: str
    files: dict[str, dict[str, Any]]
    architecture: str
    shapes: dict[str, Any]
    tokenizer: dict[str, Any]
    quantization: dict[str, dict[str, int]]
    chat_template: str
    licence: str
    licence_text: str
    vocabulary: dict[str, dict[str, int]] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    measured: list[dict[str, Any]] = field(default_factory=list)
    schema: int = SCHEMA

    @classmethod
    def of(cls, source: Gguf, model: CatalogModel, origin: str, **more: Any) -> Self:
        """Describe the model's file. Raises ModelCorrupt where its header lacks the shape."""
        return cls(
            name=model.name,
            title=model.title,
            source=origin,
            files={WEIGHTS: {"bytes": model.num_bytes, "sha256": model.sha256}},
            licence=model.licence,
            licence_text=_licence_text(model.licence, source),
            **described(source),
            **more,
        )

    @property
    def model(self) -> CatalogModel:
        """As the catalogue would list it."""
        weights = self.files[WEIGHTS]
        return CatalogModel(
            self.name, self.title, f"{self.name}.gguf", weights["bytes"], weights["sha256"], self.licence
        )


def described(source: Gguf) -> dict[str, Any]:
    """What the file itself says: shapes, tokenizer, kinds of weights, chat template."""
    _, shape = memory_plan.of_gguf(source)
    kinds: dict[str, dict[str, int]] = {}
    for tensor in source.tensors.values():
        kind = kinds.setdefault(tensor.type.name, {"tensors": 0, "bytes": 0})
        kind["tensors"] += 1
        kind["bytes"] += tensor.num_bytes
    ids = {key.removeprefix("tokenizer.ggml."): value.value for key, value in source.values.items() if _is_id(key)}
    return {
        "architecture": source.architecture,
        "shapes": asdict(shape),
        "tokenizer": {
            "kind": source.get("tokenizer.ggml.model", ""),
            "pre": source.get("tokenizer.ggml.pre", ""),
            "tokens": shape.vocab,
            **ids,
        },
        "quantization": kinds,
        "chat_template": source.get("tokenizer.chat_template", ""),
    }


def _is_id(key: str) -> bool:
    return key.startswith("tokenizer.ggml.") and key.endswith("_token_id")


def _licence_text(name: str, source: Gguf) -> str:
    """The licence's words where they are at hand, else where they are found."""
    if name == "Apache-2.0":
        return (
            metadata.distribution("dure").read_text("licenses/LICENSE") or "https://www.apache.org/licenses/LICENSE-2.0"
        )
    return str(source.get("general.license.link") or source.get("general.license") or name)


def versions() -> dict[str, str]:
    """Of what made or measured a model here."""
    found = {}
    for name in ("dure", "xllamacpp"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write(folder: Path, manifest: Manifest) -> None:
    """In one step: a reader sees the old one or the new one. Raises ModelError."""
    try:
        with one_step(folder / MANIFEST) as unfinished, unfinished.open("w", encoding="utf-8") as file:
            json.dump(asdict(manifest), file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ModelError(
            f"{folder} cannot be written ({error.strerror}): free some space, or correct its rights"
        ) from None


def read(folder: Path) -> Manifest | None:
    """None where there is no manifest. Raises ModelCorrupt where there is one that cannot be used."""
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _unusable(path, f"cannot be read ({error})") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        schema = found.get("schema") if isinstance(found, dict) else None
        raise _unusable(path, f"has schema {schema}, this release knows {SCHEMA}")
    try:
        manifest = Manifest(**found)
        manifest.model  # noqa: B018 - its file must be named
    except (TypeError, KeyError) as error:
        raise _unusable(path, f"lacks a field or has one too many ({error})") from None
    return manifest


def _unusable(path: Path, what: str) -> ModelCorrupt:
    name = path.parent.name
    return ModelCorrupt(
        f"{path} {what}: `dure model fetch {name}` writes it anew, for a model of yours `dure model add`"
    )


def added(models_dir: Path) -> dict[str, Manifest]:
    """The user's own models, which the catalogue does not know, by name. Unusable manifests are passed over."""
    found = {}
    for path in sorted(models_dir.glob(f"*/{MANIFEST}")):
        try:
            manifest = read(path.parent)
        except ModelCorrupt:
            continue
        if manifest is not None and path.parent.name not in catalog.CATALOG:
            found[path.parent.name] = manifest
    return found


def find(name: str, models_dir: Path) -> CatalogModel:
    """A model of the catalogue, or one that was added here. Raises ModelUnknown, ModelCorrupt."""
    if name in catalog.CATALOG:
        return catalog.CATALOG[name]
    manifest = read(models_dir / name) if name and Path(name).name == name else None
    if manifest is not None:
        return manifest.model
    known = ", ".join([*catalog.CATALOG, *added(models_dir), catalog.SCRIPTED])
    raise ModelUnknown(f"no model is called {name!r}. Known: {known}")


def require(name: str, models_dir: Path) -> Path:
    """The weights of a model that may be served: here, and with the right bytes. Raises ModelMissing, ModelCorrupt."""
    model = find(name, models_dir)
    path = catalog.weights_path(models_dir, model)
    if not path.is_file():
        raise ModelMissing(f"{name} is not on this machine: run `dure model fetch {name}`")
    if not is_verified(path, model):
        raise ModelCorrupt(
            f"{path} is damaged: run `dure model fetch {name}`, for a model of yours `dure model add` again"
        )
    return path


def is_verified(path: Path, model: CatalogModel) -> bool:
    """Whether the file is the model's. It is read through again only if it changed since the last check."""
    if not path.is_file() or path.stat().st_size != model.num_bytes:
        return False
    if _read_note(path) == _fingerprint(path, model):
        return True
    if catalog.sha256_of(path) != model.sha256:
        return False
    remember(path, model)
    return True


def remember(path: Path, model: CatalogModel) -> None:
    """Note that these bytes were read through. A folder that cannot be written costs the next check the same time."""
    try:
        _note(path).write_text(json.dumps(_fingerprint(path, model)), encoding="utf-8")
    except OSError:
        return


def _fingerprint(path: Path, model: CatalogModel) -> dict[str, object]:
    status = path.stat()
    return {"sha256": model.sha256, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _note(path: Path) -> Path:
    return path.with_name("verified.json")


def _read_note(path: Path) -> object:
    try:
        return json.loads(_note(path).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def faults(folder: Path, manifest: Manifest, sha256: dict[str, str]) -> list[str]:
    """What in the folder is not as its manifest says. sha256: of files that were read through already."""
    found = []
    for name, wanted in manifest.files.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != wanted["bytes"]:
            found.append(f"{name} has {path.stat().st_size:,} bytes instead of {wanted['bytes']:,}")
        elif (sha256.get(name) or catalog.sha256_of(path)) != wanted["sha256"]:
            found.append(f"{name} has another sha256")
    if not found:
        actual = described(gguf.read(folder / WEIGHTS))
        # An earlier release may not have known some detail of a shape.
        actual["shapes"] = {key: value for key, value in actual["shapes"].items() if key in manifest.shapes}
        found += [f"{key} is another" for key, value in actual.items() if getattr(manifest, key) != value]
        found += [] if manifest.shapes else ["shapes are missing"]
    return found
