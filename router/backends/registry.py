"""Which engines can run a bundle's models, and what each can do. To add one, write its module and a line here."""

import asyncio
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import import_module
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from router.backends import Engines, Generator, Verifier
from router.backends.calibrated import Calibrated
from router.backends.specs import VERIFIER, Deployment, ModelSpec, Setup, VerifierSpec
from router.backends.template import Template
from router.backends.verifiers import KINDS, kind_of, options_of
from router.errors import CodeNotAllowed, InvalidFile, InvalidRequest
from router.extras import missing
from strategies import Cascade, Strategy

Capability = Literal["steps", "revisions", "log_probs", "top_log_probs", "hidden_states"]


@dataclass(frozen=True, slots=True)
class Backend:
    """A kind of engine.

    module        a module with ``load_model`` and ``load_verifier`` like those of ``router.backends.vllm``; imported
                  on use, since it may bring heavy libraries
    capabilities  steps: continues an exact prefix and stops at the end of a step; revisions: shows a model its earlier
                  attempts; log_probs: tells how likely each written token was; top_log_probs: also how likely the
                  likeliest tokens were there; hidden_states: gives the hidden states of a prompt
    """

    module: str
    capabilities: frozenset[Capability]


_BACKENDS: dict[str, Backend] = {
    "in_process": Backend(
        "router.backends.in_process.engines",
        frozenset({"steps", "revisions", "log_probs", "top_log_probs", "hidden_states"}),
    ),
    "vllm": Backend("router.backends.vllm", frozenset({"steps", "revisions", "log_probs", "top_log_probs"})),
    "openai": Backend("router.backends.openai", frozenset({"revisions", "log_probs"})),
    "fake": Backend(
        "router.backends.fake", frozenset({"steps", "revisions", "log_probs", "hidden_states"})
    ),  # scripted, no model
}
BACKENDS: Mapping[str, Backend] = _BACKENDS


def register(name: str, backend: Backend) -> None:
    """Add a backend under the name that ``models.json`` and --backend use for it."""
    _BACKENDS[name] = backend


def backend_of(name: str) -> Backend:
    """Return the backend of this name. Raises InvalidRequest where there is none."""
    if name not in BACKENDS:
        raise InvalidRequest("backend", f"unknown backend {name!r}; known: {', '.join(BACKENDS)}", reason="UNSPECIFIED")
    return BACKENDS[name]


def load_engines(
    setup: Setup,
    folder: Path,
    deployment: Deployment,
    *,
    models: frozenset[str] | None = None,
    log_probs: bool = False,
) -> Engines:
    """Load the models of a setup, with adapters from ``folder``.

    models     names of the models to load, besides one that the verifier asks; None: all
    log_probs  whether models are asked for log-probabilities even where the verifier needs none; chat completions
               endpoints are not, since some refuse such requests

    Raises InvalidRequest, InvalidFile, MissingDependency, MissingWeights.
    """
    check_deployment(setup, deployment)
    wanted = [name for name in setup.models if models is None or name in models or name == setup.verifier.asks]
    loaded: dict[str, Generator] = {}
    try:
        for name in wanted:
            loaded[name] = load_model(name, setup, folder, deployment, log_probs=log_probs)
        verifier = load_verifier(setup, folder, deployment, loaded)
    except BaseException:
        close_unused(loaded.values())  # models hold threads and memory
        raise
    return Engines(loaded, setup.reference, verifier, {name: setup.models[name].max_tokens for name in loaded})


def load_reference(setup: Setup, folder: Path, deployment: Deployment) -> Engines:
    """Load the reference model alone, without the setup's verifier. Arguments and errors as in :func:`load_engines`."""
    alone = replace(setup, verifier=VerifierSpec("log_prob", None, 0))
    return load_engines(alone, folder, deployment, models=frozenset({setup.reference}))


def close_unused(engines: Iterable[Engines | Generator]) -> None:
    """Close what nobody will use, in a thread of its own: the caller's may run an event loop."""
    with ThreadPoolExecutor(1) as thread:
        for each in engines:
            thread.submit(asyncio.run, each.close()).result()


def load_model(name: str, setup: Setup, folder: Path, deployment: Deployment, *, log_probs: bool = False) -> Generator:
    """Load one of the setup's models. Arguments and errors as in :func:`load_engines`."""
    kind, spec = setup.verifier.kind, setup.models[name]
    backend = deployment.backend(name, spec)
    # Only the verifier of the lowest window needs the likeliest tokens, and only some engines' modules know ``top``.
    looks = kind == "lowest_window" and "top_log_probs" in backend_of(backend).capabilities
    top = {"top": setup.verifier.options["top"]} if looks else {}
    asks = kind == "log_prob" or (log_probs and "steps" in capabilities(backend, spec))
    model: Generator = _module(backend).load_model(name, spec, folder, deployment, log_probs=asks, **top)
    check_context(name, getattr(model, "context", None), {name: spec})
    return model


def load_verifier(
    setup: Setup, folder: Path, deployment: Deployment, loaded: Mapping[str, Generator] = MappingProxyType({})
) -> Verifier:
    """Load the verifier. ``loaded``: models by name that it may share. Raises as :func:`load_engines`."""
    spec = setup.verifier
    verifier: Verifier
    if spec.kind in KINDS:
        options = options_of(spec.kind, spec.options)
        asked = _asked(setup, folder, deployment, loaded) if spec.asks else None
        verifier = import_module(KINDS[spec.kind].module).load(spec, options, asked)
    else:
        module = _module(deployment.backends.get(VERIFIER) or deployment.backend(setup.reference, setup.main))
        verifier = module.load_verifier(spec, setup.main, loaded.get(setup.reference), folder, deployment)
        check_context(VERIFIER, getattr(verifier, "context", None), {name: setup.models[name] for name in loaded})
    as_it_is = (spec.slope, spec.intercept) == (1, 0) and not spec.by_task
    by_task = {name: (platt.slope, platt.intercept) for name, platt in spec.by_task.items()}
    return verifier if as_it_is else Calibrated(verifier, spec.slope, spec.intercept, by_task)


def check_context(name: str, context: int | None, specs: Mapping[str, ModelSpec]) -> None:
    """Raises InvalidFile where ``name`` can't hold what one of the models writes, let alone the prompt before it.

    context  tokens that it can hold; None: nobody knows
    """
    writer, longest = max(((each, spec.max_tokens) for each, spec in specs.items()), key=itemgetter(1), default=("", 0))
    if context is not None and context <= longest:
        whose = "its" if writer == name else f"the model {writer!r}'s"
        raise InvalidFile(
            f"models.json: the context of {name!r} has {context} tokens, and {whose} longest solution alone takes "
            f"{longest}: name a model with a larger context, or make the bundle anew with a lower max_tokens"
        )


def _asked(setup: Setup, folder: Path, deployment: Deployment, loaded: Mapping[str, Generator]) -> Generator:
    """Return the model that the verifier asks, loaded if need be."""
    name = str(setup.verifier.asks)
    if name in loaded:
        return loaded[name]
    spec = setup.models[name]
    model: Generator = _module(deployment.backend(name, spec)).load_model(name, spec, folder, deployment)
    return model


def check_deployment(setup: Setup, deployment: Deployment) -> None:
    """Raise InvalidRequest where the deployment names a model that the setup lacks, or a URL that no backend calls."""
    for option, names in (
        ("url", deployment.urls),
        ("backend", deployment.backends),
        ("header", deployment.headers),
    ):
        if unknown := sorted(set(names) - set(setup.models) - {VERIFIER, ""}):
            known = ", ".join([*setup.models, VERIFIER])
            raise InvalidRequest(
                option, f"--{option}: the bundle has no model {unknown[0]!r}; it has {known}", reason="UNSPECIFIED"
            )
    for name in {*setup.models, VERIFIER} & set(deployment.urls):
        spec = setup.models.get(name, setup.main)
        if deployment.backends.get(name, deployment.backend(name, spec)) in ("in_process", "fake"):
            raise InvalidRequest(
                "backend",
                f"--url {name}=… names a server, but the backend of {name!r} calls no server; add --backend vllm",
                reason="UNSPECIFIED",
            )


def check_code(setup: Setup, allow_code: bool) -> None:
    """Raise CodeNotAllowed where the verifier runs code and ``allow_code`` is false."""
    if kind_of(setup.verifier.kind).runs_code and not allow_code:
        raise CodeNotAllowed(
            f"a {setup.verifier.kind!r} verifier runs code: start with --allow-code, or name another in models.json"
        )


def why_not(
    arm: Strategy, setup: Setup, deployment: Deployment, loaded: Engines | None = None, *, scored: bool = False
) -> str | None:
    """Return why an arm can't be run; None where it can.

    scored  whether its solutions are scored even if the arm itself needs no scores, as a cascade's stages are
    """
    if isinstance(arm, Cascade):  # each stage has its own models and needs
        reasons = (
            why_not(stage, setup, deployment, loaded, scored=scored or stage is not arm.stages[-1])
            for stage in arm.stages
        )
        return next((reason for reason in reasons if reason), None)
    if lacking := _verifier_lacks(arm, setup.verifier.kind):
        return lacking
    needs: dict[Capability, bool] = {
        "steps": arm.needs_steps,
        "revisions": arm.revises,
        "log_probs": setup.verifier.kind == "log_prob" and (arm.needs_scores or scored),
        "top_log_probs": setup.verifier.kind == "lowest_window" and (arm.needs_scores or scored),
    }
    for name in sorted(model or setup.reference for model in arm.models):
        if name not in setup.models or (loaded and name not in loaded.models):
            return f"the model {name!r} is not served"
        template = setup.models[name].template
        if arm.needs_findings and isinstance(template, Template) and template.assistant == "{text}":
            return f"the template of the model {name!r} lacks `assistant`, the text around what the model said before"
        backend = deployment.backend(name, setup.models[name])
        for capability, needed in needs.items():
            if needed and capability not in capabilities(backend, setup.models[name]):
                return f"the backend {backend!r} of the model {name!r} lacks the capability {capability!r}"
    return None


def _verifier_lacks(arm: Strategy, name: str) -> str | None:
    """Return why a verifier of the kind ``name`` is not enough for an arm; None where it is."""
    kind = kind_of(name)
    if arm.needs_scores and not kind.scores:
        return "the bundle has no verifier to choose by"
    if arm.needs_scores and arm.needs_steps and kind.whole:
        return f"a {name!r} verifier scores whole solutions only, and not their steps"
    if arm.needs_findings and not kind.findings:
        others = " or ".join(repr(other) for other, each in KINDS.items() if each.findings)
        return (
            f"a {name!r} verifier does not say what is wrong with a solution; name one of the kind {others} in "
            "models.json, or ask for revision, which tells the model no reason"
        )
    return None


def capabilities(backend: str, spec: ModelSpec) -> frozenset[Capability]:
    """Return the backend's capabilities with this model."""
    can = backend_of(backend).capabilities
    return can - {"log_probs"} if spec.endpoint and not spec.endpoint.log_probs else can


def _module(name: str) -> Any:
    backend = backend_of(name)
    try:
        return import_module(backend.module)
    except ModuleNotFoundError as error:
        raise missing(error) or error from error
