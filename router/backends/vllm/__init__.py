"""Engines on vLLM's OpenAI-compatible server, or on several of them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path as Folder
from typing import Any

from router.backends import EMBEDDED, Endpoints, Generator, GeneratorSpec, LogProbability, Verifier, VerifierSpec
from router.backends.prm import FORMATS, ReadingVerifier, label_ids, solution
from router.backends.vllm.generator import VllmGenerator
from router.backends.vllm.replicas import Replicas
from router.backends.vllm.verifiers import VllmClassifier, VllmLabels, VllmLikelihood
from router.errors import InvalidRequest, MissingWeights
from router.extras import missing


def load(
    generator: GeneratorSpec, verifier: VerifierSpec, folder: Folder, endpoints: Endpoints
) -> tuple[Generator, Verifier]:
    """Engines that answer at ``endpoints``; a published reward model without an endpoint is run in this process.

    Adapters are the server's to load: it serves each under the name that the manifest gives its folder.
    Raises InvalidRequest, MissingWeights.
    """
    if not endpoints.generator:
        raise InvalidRequest("generator-url", "--backend vllm needs --generator-url", reason="UNSPECIFIED")
    log_probs = verifier.kind == "log_prob"  # nobody else reads them
    writer = _writer(generator, endpoints.generator, endpoints, log_probs=log_probs)
    return writer, load_verifier(generator, verifier, endpoints)


def load_larger(spec: GeneratorSpec, folder: Folder, endpoints: Endpoints) -> Generator:
    """Raises InvalidRequest, MissingWeights."""
    if not endpoints.larger:
        raise InvalidRequest(
            "larger-url",
            "the arm larger_model was measured on a second model; say where it is served with --larger-url",
            reason="UNSPECIFIED",
        )
    return _writer(spec, endpoints.larger, endpoints, log_probs=False)


def _writer(spec: GeneratorSpec, urls: Sequence[str], endpoints: Endpoints, *, log_probs: bool) -> VllmGenerator:
    return VllmGenerator(Replicas(urls, endpoints.api_key), spec, load_tokenizer(spec.model), log_probs=log_probs)


def load_verifier(generator: GeneratorSpec, spec: VerifierSpec, endpoints: Endpoints) -> Verifier:
    """Raises InvalidRequest, MissingWeights."""
    if spec.kind == "log_prob":
        return LogProbability()
    if spec.kind == "likelihood":
        if not endpoints.verifier:
            raise InvalidRequest(
                "verifier-url",
                "a likelihood verifier needs a server of its own: write its weights with `router merge verifier`, "
                "serve them, and name that server with --verifier-url",
                reason="UNSPECIFIED",
            )
        read = partial(solution, load_tokenizer(generator.model), generator.template)
        likelihood = VllmLikelihood(Replicas(endpoints.verifier, endpoints.api_key), spec.adapter)
        return ReadingVerifier(read, spec.parameters, likelihood)
    if spec.kind not in FORMATS:
        raise InvalidRequest(
            "backend",
            f"a {spec.kind!r} verifier shares its generator's process; with --backend vllm serve likelihood, log_prob "
            "or one of " + ", ".join(FORMATS),
            reason="UNSPECIFIED",
        )
    if not endpoints.verifier:
        from router.backends.in_process import prm_models

        return prm_models.load(spec)
    if FORMATS[spec.kind].head == "value":
        raise InvalidRequest(
            "verifier-url", f"vLLM serves no {spec.kind}: leave --verifier-url out to run it here", reason="UNSPECIFIED"
        )
    if spec.model is None:
        raise MissingWeights(f"a {spec.kind} verifier needs a model, for its tokenizer: a folder or hub id")
    tokenizer = load_tokenizer(spec.model)
    replicas, labels = Replicas(endpoints.verifier, endpoints.api_key), label_ids(spec.kind, tokenizer)
    reader = VllmLabels(replicas, labels) if labels else VllmClassifier(replicas)
    return ReadingVerifier(FORMATS[spec.kind].reading(tokenizer), spec.parameters, reader)


def load_tokenizer(model: str) -> Any:
    """Needs no torch, but for the embedded model, which is converted. Raises MissingWeights, MissingDependency."""
    from transformers import AutoTokenizer
    from transformers import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # that there is no torch is no news
    if model == EMBEDDED:
        try:
            from router.backends.in_process.weights import model_folder
        except ModuleNotFoundError as error:
            raise missing(error) or error from error  # the embedded model has to be converted first
        model = model_folder(model)
    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise MissingWeights(f"can't load the tokenizer of {model!r}: {error}. Name a folder that has it") from error
