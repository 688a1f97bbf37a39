"""Tokenizers, by transformers alone: no torch is needed, but for the embedded model."""

from collections.abc import Callable
from functools import partial
from typing import Any

from router.backends.specs import EMBEDDED, Deployment, Setup
from router.backends.steps import StepText, split_text
from router.errors import MissingWeights
from router.extras import missing


def splitter(setup: Setup, deployment: Deployment) -> Callable[[str], tuple[str, ...]]:
    """Cuts a solution of the reference model into steps as its engine does. Raises as :func:`load_tokenizer`."""
    delimiter = setup.main.template.delimiter
    if deployment.backend(setup.reference, setup.main) in ("fake", "openai"):  # no tokenizer is here
        return partial(split_text, delimiter=delimiter)
    return StepText(load_tokenizer(setup.main.model), delimiter).split


def load_tokenizer(model: str) -> Any:
    """Needs no torch, but for the embedded model: it is converted first. Raises MissingWeights, MissingDependency."""
    try:
        from transformers import AutoTokenizer
        from transformers import logging as transformers_logging

        transformers_logging.set_verbosity_error()  # that there is no torch is no news
        if model == EMBEDDED:
            from router.backends.in_process.weights import model_folder

            model = model_folder(model)
    except ModuleNotFoundError as error:
        raise missing(error) or error from error
    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise MissingWeights(f"can't load the tokenizer of {model!r}: {error}. Name a folder that has it") from error
