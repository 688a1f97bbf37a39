"""Models behind any OpenAI-compatible chat completions endpoint: a hosted API, or a server such as llama.cpp's.

Such an endpoint takes messages and gives whole solutions. It can't continue an exact prefix, so arms that work step by
step are left out.
"""

from pathlib import Path as Folder
from urllib.parse import urlsplit

from router.backends import Generator, Verifier, vllm
from router.backends.openai.generator import OpenAIGenerator
from router.backends.replicas import Replicas
from router.backends.specs import VERIFIER, Deployment, ModelSpec, VerifierSpec
from router.backends.template import OwnTemplate
from router.errors import InvalidFile, InvalidRequest


def load_model(
    name: str, spec: ModelSpec, folder: Folder, deployment: Deployment, *, log_probs: bool = True
) -> Generator:
    """Return a generator that calls the servers at the deployment's URLs for ``name``.

    log_probs: whether to ask for log-probabilities, which not every server gives.
    Raises InvalidRequest where there is no URL, InvalidFile where the template is not the server's own.
    """
    urls = deployment.urls.get(name)
    if not urls:
        raise InvalidRequest(
            "url",
            f"say where the model {name!r} is served: --url {name}=http://host:8080, or the base URL of its API",
            reason="UNSPECIFIED",
        )
    if not isinstance(spec.template, OwnTemplate):
        raise InvalidFile(
            f"models.{name}.template: a chat completions endpoint has its own template; leave only delimiter, retry "
            "and default_system"
        )
    thinking = spec.thinking
    if thinking and thinking.budget is not None and not thinking.effort and not thinking.parameter:
        raise InvalidFile(
            f"models.{name}.thinking.parameter: name the key of a request that takes the budget at this server, such "
            "as thinking_token_budget (vLLM) or thinking_budget_tokens (llama.cpp)"
        )
    headers = deployment.headers_of(name)
    replicas = Replicas(list(map(base_url, urls)), deployment.key(name), headers=headers, model=name)
    return OpenAIGenerator(replicas, spec, spec.template, log_probs=log_probs)


def load_verifier(
    spec: VerifierSpec, main: ModelSpec, writer: Generator | None, folder: Folder, deployment: Deployment
) -> Verifier:
    """Load as :func:`router.backends.vllm.load_verifier`. Raises InvalidRequest for kinds that read tokens."""
    if spec.kind in ("prm", "likelihood") and VERIFIER not in deployment.backends:
        raise InvalidRequest(
            "backend",
            f"a {spec.kind!r} verifier reads tokens, and a chat completions endpoint takes none: serve it with "
            "--backend verifier=vllm, or let another kind score, such as log_prob",
            reason="UNSPECIFIED",
        )
    return vllm.load_verifier(spec, main, writer, folder, deployment)


def base_url(url: str) -> str:
    """Return the API's base URL, as OpenAI's clients take it: ``url``, with /v1 added where it has no path."""
    return url if urlsplit(url).path.strip("/") else url.rstrip("/") + "/v1"
