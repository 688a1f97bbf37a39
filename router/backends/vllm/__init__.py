"""Models on one or several of vLLM's OpenAI-compatible servers."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path as Folder

from router.backends import Generator, Verifier
from router.backends.log_probability import LogProbability
from router.backends.prm import FORMATS, ReadingVerifier, label_ids, solution
from router.backends.replicas import Replicas
from router.backends.specs import VERIFIER, Deployment, ModelSpec, VerifierSpec
from router.backends.template import resolved
from router.backends.tokenizers import load_tokenizer
from router.backends.vllm.generator import VllmGenerator
from router.backends.vllm.verifiers import VllmClassifier, VllmLabels, VllmLikelihood
from router.errors import InvalidRequest, MissingWeights


def load_model(
    name: str, spec: ModelSpec, folder: Folder, deployment: Deployment, *, log_probs: bool = True, top: int = 0
) -> Generator:
    """Return a generator that calls the servers at the deployment's URLs for ``name``.

    The server has to load adapters itself, and serve each under the name of its folder in the bundle.
    log_probs: whether to ask for log-probabilities, which the server then has to compute.
    top: number of likeliest tokens that a token's confidence is computed from; 0: no confidences.
    Raises InvalidRequest where there is no URL, MissingWeights where the tokenizer is not here.
    """
    urls = deployment.urls.get(name)
    if not urls:
        raise InvalidRequest(
            "url", f"say where vLLM serves the model {name!r}: --url {name}=http://host:8000", reason="UNSPECIFIED"
        )
    replicas = _replicas(name, urls, deployment)
    return VllmGenerator(replicas, spec, load_tokenizer(spec.model), log_probs=log_probs, top=top)


def load_verifier(
    spec: VerifierSpec, main: ModelSpec, writer: Generator | None, folder: Folder, deployment: Deployment
) -> Verifier:
    """Load the verifier. A published reward model without a URL runs in this process.

    Raises InvalidRequest, MissingWeights.
    """
    if spec.kind == "log_prob":
        return LogProbability()
    urls = deployment.urls.get(VERIFIER, ())
    if spec.kind == "likelihood":
        if not urls:
            raise InvalidRequest(
                "url",
                "a likelihood verifier needs a server of its own: write its weights with `router merge verifier`, "
                "serve them, and name that server with --url verifier=http://host:8001",
                reason="UNSPECIFIED",
            )
        tokenizer = load_tokenizer(main.model)
        read = partial(solution, tokenizer, resolved(main.template, tokenizer))
        likelihood = VllmLikelihood(_replicas(VERIFIER, urls, deployment), spec.adapter)
        return ReadingVerifier(read, spec.parameters, likelihood)
    if spec.kind not in FORMATS:
        raise InvalidRequest(
            "backend",
            f"a {spec.kind!r} verifier shares its generator's process; with --backend vllm serve likelihood, log_prob "
            "or one of " + ", ".join(FORMATS),
            reason="UNSPECIFIED",
        )
    if not urls:
        from router.backends.in_process import prm_models

        return prm_models.load(spec)
    if FORMATS[spec.kind].head == "value":
        raise InvalidRequest(
            "url", f"vLLM serves no {spec.kind}: leave --url verifier=… out to run it here", reason="UNSPECIFIED"
        )
    if spec.model is None:
        raise MissingWeights(f"a {spec.kind} verifier needs a model, for its tokenizer: a folder or hub id")
    tokenizer = load_tokenizer(spec.model)
    replicas, labels = _replicas(VERIFIER, urls, deployment), label_ids(spec.kind, tokenizer)
    reader = VllmLabels(replicas, labels) if labels else VllmClassifier(replicas)
    return ReadingVerifier(FORMATS[spec.kind].reading(tokenizer), spec.parameters, reader, question_alone=True)


def _replicas(name: str, urls: Sequence[str], deployment: Deployment) -> Replicas:
    """Return the servers at ``urls``, whose final /v1 is dropped: vLLM has paths outside of it."""
    roots = [url.rstrip("/").removesuffix("/v1") for url in urls]
    return Replicas(roots, deployment.key(name), headers=deployment.headers_of(name), model=name)
