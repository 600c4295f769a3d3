"""What somebody means by a model: a name in the catalogue, one that was added here, a file, or only a known shape."""

from dataclasses import dataclass
from pathlib import Path

from dure import artifact, catalog, engines, gguf, known_models, memory_plan
from dure.catalog import CatalogModel
from dure.errors import ModelMissing, ModelUnknown, ModelUnsupported
from dure.memory_plan import Shape


@dataclass(frozen=True)
class Subject:
    """A model that can be planned. source: where the shape and size come from."""

    name: str
    weights_bytes: int
    shape: Shape
    source: str
    licence: str = ""


def subject(name: str, models_dir: Path, engine: str = "llama") -> Subject:
    """With the weights as that engine holds them; another than llama needs the file.

    Raises ModelUnknown with the nearest name, ModelMissing, ModelCorrupt, ModelUnsupported.
    """
    model = listed(models_dir).get(name)
    if model is None and not is_path(name):
        found = known_subject(name)
        if engine != "llama":
            raise ModelMissing(f"{name} is not on this machine: --engine {engine} plans only what is here")
        return found
    path = catalog.weights_path(models_dir, model) if model else Path(name)
    if model and not path.is_file():
        if name not in known_models.CATALOGUE_SHAPES or engine != "llama":
            raise ModelMissing(f"{name} is not on this machine: run `dure model fetch {name}`, then plan it")
        return subject_by_shape(model, "known shape; the file is not here / 파일은 아직 없습니다")
    source = described(path)
    if engine != "llama" and engine not in engines.that_run(source.architecture):
        raise ModelUnsupported(
            f"{name} is {source.architecture}, which the {engine} engine does not run: plan --engine llama"
        )
    weights, shape = memory_plan.of_gguf(source, engine)
    return Subject(name, weights, shape, str(path), model.licence if model else "")


def known_subject(name: str) -> Subject:
    model = known_models.find(name)
    if model is None:
        raise ModelUnknown(f"no model is called {name!r}{_hint(name)}")
    source = f"Q4_K_M, {model.hub}" + ("" if model.is_checked else f"; not confirmed: {model.note}")
    return Subject(model.name, memory_plan.q4_k_m_bytes(model.shape), model.shape, source, model.licence)


def subject_by_shape(listed: CatalogModel, source: str = "catalogue") -> Subject:
    shape = known_models.CATALOGUE_SHAPES[listed.name]
    weights = listed.num_bytes - known_models.HEADER_BYTES_PER_TOKEN * shape.vocab
    return Subject(listed.name, weights, shape, source, listed.licence)


def on_list(name: str, models_dir: Path) -> CatalogModel:
    """A model that is listed by name. Raises ModelUnknown, which says what can be done instead."""
    models = listed(models_dir)
    if name in models:
        return models[name]
    known = known_models.find(name)
    if known:
        raise ModelUnknown(
            f"{known.name} cannot be had here, only from the model hub ({known.hub}): where you have its GGUF file, "
            "`dure model add FILE` adds it; `dure model recommend` shows what can be fetched"
        )
    near = known_models.nearest(name, list(models))
    hint = f"did you mean {near}?" if near in models else "`dure model list` shows the names"
    raise ModelUnknown(f"no model is called {name!r}: {hint}")


def weights_of(name: str, models_dir: Path) -> Path:
    """The file of a listed model, or the file or folder named. Raises ModelUnknown, ModelMissing."""
    if is_path(name) and name not in listed(models_dir):
        path = Path(name).expanduser()
        if not path.exists():
            raise ModelMissing(f"{path} is not there: name a .gguf file")
        return path
    model = on_list(name, models_dir)
    path = catalog.weights_path(models_dir, model)
    if not path.is_file():
        raise ModelMissing(f"{model.name} is not on this machine: run `dure model fetch {model.name}`")
    return path


def is_path(name: str) -> bool:
    # A hub's repository, owner/name, is no path unless something lies there.
    return name.endswith(".gguf") or name.startswith((".", "/", "~")) or Path(name).exists()


def described(path: Path) -> gguf.Gguf:
    try:
        return gguf.read(path)
    except OSError as error:
        raise ModelMissing(f"{path} cannot be read ({error.strerror}): name a .gguf file") from None


def num_tokens(model: CatalogModel, models_dir: Path) -> int:
    """Size of its vocabulary, 0 where it is not known."""
    if model.name in known_models.CATALOGUE_SHAPES:
        return known_models.CATALOGUE_SHAPES[model.name].vocab
    manifest = artifact.added(models_dir).get(model.name)
    return int(manifest.tokenizer["tokens"]) if manifest else 0


def listed(models_dir: Path) -> dict[str, CatalogModel]:
    own = {name: manifest.model for name, manifest in artifact.added(models_dir).items()}
    return catalog.CATALOG | own


def _hint(name: str) -> str:
    near = known_models.nearest(name, list(catalog.CATALOG))
    known = ", ".join([*catalog.CATALOG, *known_models.KNOWN])
    return f": did you mean {near}?" if near else f": known are {known}; or name a .gguf file"
