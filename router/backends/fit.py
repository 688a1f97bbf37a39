"""Checks, before a bundle serves, that the deployment's model servers have what the bundle needs."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from router.backends.probe import ServedModel, served
from router.backends.specs import VERIFIER, Deployment, Setup
from router.errors import EngineUnavailable, InvalidRequest

_log = logging.getLogger(__name__)


def check_servers(setup: Setup, deployment: Deployment) -> None:
    """Ask each vLLM server what it serves. A server that does not answer is only logged: it may still be starting.

    Raises InvalidRequest where an adapter, a name or room for the longest solution is missing.
    """
    places = [
        (name, url) for name, urls in deployment.urls.items() if _on_vllm(name, setup, deployment) for url in urls
    ]
    if not places:
        return
    with ThreadPoolExecutor(len(places)) as pool:
        answers = pool.map(lambda place: _list(place[0], place[1], deployment), places)
    for (name, url), listed in zip(places, answers, strict=True):
        for problem in _problems(name, listed, setup) if listed else ():
            raise InvalidRequest("url", f"--url {name}={url}: {problem}", reason="UNSPECIFIED")


def _on_vllm(name: str, setup: Setup, deployment: Deployment) -> bool:
    backend = deployment.backend(setup.reference, setup.main)
    if name == VERIFIER:
        return (deployment.backends.get(VERIFIER) or backend) == "vllm"
    return name in setup.models and deployment.backend(name, setup.models[name]) == "vllm"


def _list(name: str, url: str, deployment: Deployment) -> Sequence[ServedModel]:
    try:
        return served(url, deployment.key(name), deployment.headers_of(name))
    except EngineUnavailable as error:
        _log.warning("%s; the bundle serves all the same, and health says NOT_SERVING until a model answers", error)
        return ()


def _problems(name: str, listed: Sequence[ServedModel], setup: Setup) -> Iterator[str]:
    names = {each.name for each in listed}
    if name == VERIFIER:
        needed = [setup.verifier.adapter] if setup.verifier.kind == "likelihood" else []
    else:
        needed = [setup.models[name].adapter, setup.models[name].reviser]
    for adapter in filter(None, needed):
        if adapter not in names:
            yield (
                f"serves {', '.join(sorted(names))}, not {adapter!r}, which the bundle needs: start vLLM with "
                f"--enable-lora --lora-modules {adapter}=FOLDER, or serve what `router merge` writes with "
                f"--served-model-name {adapter}"
            )
    # What scores reads whatever any of the models wrote.
    writers = setup.models.values() if name == VERIFIER else [setup.models[name]]
    context, longest = listed[0].context, max(spec.max_tokens for spec in writers)
    if context is not None and context <= longest:
        yield (
            f"has a context of {context} tokens, and the bundle's longest solution alone takes {longest}: start "
            "vLLM with a larger --max-model-len"
        )
