"""The models that attempts are sampled and scored with: named by ``engine.json`` in a bundle's folder, and loaded."""

import json
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from router.backends import Calibrated, Endpoints, Engines, GeneratorSpec, Verifier, VerifierSpec
from router.bundle.bundle import specs
from router.errors import InvalidFile, InvalidRequest
from router.extras import missing

ENGINE = "engine.json"
BACKENDS = ("transformers", "vllm", "fake")
_MODULES = {"transformers": "in_process.engines"}
NOWHERE = Endpoints()


@dataclass(frozen=True, slots=True)
class Engine:
    """What a bundle in the making is measured on; ``name`` is the bundle's."""

    name: str
    generator: GeneratorSpec
    verifier: VerifierSpec
    larger: GeneratorSpec | None = None


def read_engine(folder: Path) -> Engine:
    """Read ``{"name": ..., "generator": {GeneratorSpec}, "verifier": {VerifierSpec}}``, and where larger_model is an
    arm, ``"larger": {GeneratorSpec}``; raises InvalidFile."""
    path = folder / ENGINE
    try:
        document = json.loads(path.read_text())
        if not isinstance(document, dict) or {*document, "larger"} != {"name", "generator", "verifier", "larger"}:
            raise ValueError("needs exactly the keys name, generator and verifier, and for a larger model larger")
        if not isinstance(document["name"], str) or not document["name"].strip():
            raise ValueError("name must be a non-empty string")
        return Engine(document["name"], *specs(document["generator"], document["verifier"], document.get("larger")))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidFile(
            f"{folder} has no {ENGINE}, which says what generator and verifier the attempts are from: "
            '{"name": ..., "generator": {...}, "verifier": {...}}; copy one from another bundle and change it'
        ) from error
    except ValueError as error:
        raise InvalidFile(f"{path}: {error}") from error


def write_engine(engine: Engine, folder: Path) -> None:
    """The inverse of :func:`read_engine`, at once: the file is the old one or the new one."""
    partial = folder / (ENGINE + ".partial")
    partial.write_text(json.dumps(asdict(engine), indent=2) + "\n")
    partial.replace(folder / ENGINE)


def load_engines(backend: str, engine: Engine, folder: Path, endpoints: Endpoints = NOWHERE) -> Engines:
    """All models, with the adapters in ``folder`` or at ``endpoints``.

    Raises InvalidRequest, MissingDependency, MissingWeights.
    """
    module = _module(backend, endpoints)
    where = (endpoints,) if backend == "vllm" else ()
    generator, verifier = module.load(engine.generator, engine.verifier, folder, *where)
    larger = module.load_larger(engine.larger, folder, *where) if engine.larger else None
    return Engines(generator, _calibrated(verifier, engine.verifier), larger)


def load_verifier(backend: str, engine: Engine, folder: Path, endpoints: Endpoints = NOWHERE) -> Verifier:
    """The verifier alone, where it needs no generator. Raises as :func:`load_engines`."""
    if backend == "vllm":
        verifier = _module(backend, endpoints).load_verifier(engine.generator, engine.verifier, endpoints)
        return _calibrated(verifier, engine.verifier)
    return load_engines(backend, replace(engine, larger=None), folder, endpoints).verifier


def _calibrated(verifier: Verifier, spec: VerifierSpec) -> Verifier:
    as_it_is = (spec.slope, spec.intercept) == (1, 0)
    return verifier if as_it_is else Calibrated(verifier, spec.slope, spec.intercept)


def _module(backend: str, endpoints: Endpoints) -> Any:
    if backend not in BACKENDS:
        raise InvalidRequest(
            "backend", f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}", reason="UNSPECIFIED"
        )
    if backend != "vllm" and (endpoints.generator or endpoints.verifier or endpoints.larger):
        raise InvalidRequest(
            "backend", f"the {backend} backend calls no engine; name one with --backend vllm", reason="UNSPECIFIED"
        )
    try:
        return import_module(f"router.backends.{_MODULES.get(backend, backend)}")
    except ModuleNotFoundError as error:
        raise missing(error) or error from error
