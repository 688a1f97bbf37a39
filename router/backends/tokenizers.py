"""Tokenizers. Only transformers is needed to load them; torch is needed for the embedded model alone."""

from collections.abc import Callable
from functools import partial
from typing import Any

from router.backends.specs import EMBEDDED, Deployment, Setup
from router.backends.steps import StepText, split_text
from router.errors import MissingWeights
from router.extras import missing


def splitter(setup: Setup, deployment: Deployment) -> Callable[[str], tuple[str, ...]]:
    """Return a function that cuts the reference model's solutions into steps as its engine does.

    Raises as :func:`load_tokenizer`.
    """
    delimiter = setup.main.template.delimiter
    if deployment.backend(setup.reference, setup.main) in ("fake", "openai"):  # no tokenizer is here
        return partial(split_text, delimiter=delimiter)
    return StepText(load_tokenizer(setup.main.model), delimiter).split


def load_tokenizer(model: str) -> Any:
    """Load a model's tokenizer; the embedded model is first converted. Raises MissingWeights, MissingDependency."""
    try:
        from transformers import AutoTokenizer
        from transformers import logging as transformers_logging

        transformers_logging.set_verbosity_error()  # it warns that torch is missing, which is fine here
        if model == EMBEDDED:
            from router.backends.in_process.weights import model_folder

            model = model_folder(model)
    except ModuleNotFoundError as error:
        raise missing(error) or error from error
    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise MissingWeights(f"can't load the tokenizer of {model!r}: {error}. Name a folder that has it") from error
