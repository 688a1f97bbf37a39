"""Loads models into this process."""

from pathlib import Path

from router.backends import Generator, Verifier
from router.backends.in_process import prm_models, weights
from router.backends.in_process.batching import Batcher
from router.backends.in_process.generator import TransformersGenerator
from router.backends.in_process.memory import pool
from router.backends.in_process.step_verifier import HEADS, StepVerifier
from router.backends.log_probability import LogProbability
from router.backends.prm import FORMATS
from router.backends.specs import Deployment, ModelSpec, VerifierSpec
from router.errors import InvalidFile


def load_model(
    name: str, spec: ModelSpec, folder: Path, deployment: Deployment, *, log_probs: bool = True, top: int = 0
) -> Generator:
    """Load a model onto a worker thread of its own; ``folder`` holds its adapters. Raises MissingWeights.

    top: number of likeliest tokens that a token's confidence is computed from; 0: no confidences
    """
    writer = _batcher(spec, spec.adapter, folder, deployment, top)
    reviser = _batcher(spec, spec.reviser, folder, deployment, top) if spec.reviser else None
    return TransformersGenerator(writer, spec, reviser)


def load_verifier(
    spec: VerifierSpec, main: ModelSpec, writer: Generator | None, folder: Path, deployment: Deployment
) -> Verifier:
    """Load the verifier; where ``writer`` is the reference model in this process, on the thread of that model.

    Raises MissingWeights, InvalidFile where the kind is unknown.
    """
    if spec.kind == "log_prob":
        return LogProbability()
    if spec.kind in FORMATS:
        return prm_models.load(spec)
    if spec.kind not in HEADS or spec.adapter is None:
        known = ", ".join([*(f"{kind} (with an adapter)" for kind in HEADS), "log_prob", *FORMATS])
        raise InvalidFile(f"unknown verifier kind {spec.kind!r}; known: {known}")
    if not isinstance(writer, TransformersGenerator):
        writer = TransformersGenerator(_batcher(main, main.adapter, folder, deployment), main)
    scorer, _ = weights.load_model(main.model, folder / spec.adapter, scores_steps=spec.kind == "prm")
    return StepVerifier(writer.batcher, scorer, writer.template, spec)


def _batcher(spec: ModelSpec, adapter: str | None, folder: Path, deployment: Deployment, top: int = 0) -> Batcher:
    model, tokenizer = weights.load_model(spec.model, folder / adapter if adapter else None)
    share = pool(deployment.memory, model.device)
    return Batcher(model, tokenizer, spec.template.delimiter, spec.max_tokens, share, top=top)
