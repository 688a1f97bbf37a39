"""Asks a vLLM server what it serves, and defines what every request to it has in common."""

from dataclasses import dataclass
from typing import Any

from router.backends.replicas import Replicas
from router.errors import EngineUnavailable

LARGEST_COUNT = 2**24  # tokens of one request: a larger number is an error, since contexts are far smaller
# Sent with every request, since a server's own defaults, from the model's generation_config, would change samples.
PLAIN = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


@dataclass(frozen=True, slots=True)
class Served:
    """``base``: the name of the model without adapters; ``context``: tokens of prompt and answer together."""

    base: str
    context: int


async def look(replicas: Replicas, *models: str | None) -> Served:
    """Ask what the servers serve. Raises EngineUnavailable where one of ``models`` is not served."""

    def read(answer: Any) -> tuple[list[str], int | None]:
        served = answer["data"]
        if not served:
            raise ValueError("no models")
        room = next((int(model["max_model_len"]) for model in served if model.get("max_model_len")), None)
        return [str(model["id"]) for model in served], room

    names, context = await replicas.get("/v1/models", read)
    for model in models:
        if model is not None and model not in names:
            raise EngineUnavailable(
                f"the engine of {replicas.model} serves {', '.join(names)}, not {model!r}: start vLLM "
                f"with --enable-lora --lora-modules {model}=FOLDER, or serve what `router merge` writes with "
                f"--served-model-name {model}"
            )
    if context is None:
        raise EngineUnavailable(f"the engine of {replicas.model} does not say how long its context is (max_model_len)")
    return Served(names[0], context)


def token_count(reported: Any) -> int:
    count = int(reported)
    if not 0 <= count < LARGEST_COUNT:
        raise ValueError(f"{count} tokens")
    return count
