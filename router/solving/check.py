"""Checks all that a bundle needs before it is used: servers, models, one solution, its answer, its score."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from router.backends import Asked, Generator, Usage, prepared
from router.backends.registry import Capability, capabilities, check_deployment, load_model, load_verifier
from router.backends.specs import VERIFIER, Deployment, ModelSpec, Setup
from router.errors import InvalidRequest, RouterError
from router.prompt import Prompt
from router.tasks import load_task, why_none
from strategies import Candidate

SECONDS = 300.0  # time limit for one solution
LEAST_ROOM = 64  # least room for a prompt, in tokens
STAND_IN = Candidate(steps=("12 + 30 = 42\n", "Answer: 42"), end="stop", answer="42")  # where no model wrote one

# An easy question of each task, and its inputs.
QUESTIONS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "math": ("What is 12 + 30?", {}),
    "number": ("What is 12 + 30?", {}),
    "choice": ("Which of these is a colour?\nA. red\nB. seven", {"choices": ["red", "seven"]}),
    "exact": ("What is the capital of France?", {}),
    "json": (
        'Give the sum of 3 and 4 as JSON: {"total": <number>}',
        {"schema": {"type": "object", "required": ["total"], "properties": {"total": {"type": "number"}}}},
    ),
    "code": ("Write a Python function add(x, y) that returns the sum of two numbers.", {"tests": []}),
}

_CAN: Mapping[Capability, str] = {
    "steps": "steps",
    "revisions": "attempts that are shown earlier ones",
    "log_probs": "log-probabilities",
    "hidden_states": "hidden states",
    "top_log_probs": "log-probabilities of other tokens",
}


class BundleCheck:
    """Reports each check's result to ``say``, one line each, and counts checks and failures.

    question  prompt to try; None: an easy one of the task
    """

    def __init__(
        self, setup: Setup, folder: Path, deployment: Deployment, question: str | None, *, say: Callable[[str], object]
    ):
        self.setup = setup
        self.folder = folder
        self.deployment = deployment
        self.say = say
        self.checks = self.failures = 0
        name = setup.tasks[0]
        if question is None and name not in QUESTIONS:
            raise InvalidRequest(
                "prompt", f"say what to ask for the task {name!r}: --prompt TEXT", reason="UNSPECIFIED"
            )
        text, inputs = QUESTIONS[name] if question is None else (question, {})
        self.prompt = Prompt.of(text)
        self.task = load_task(name).bound(inputs) if inputs or question is None else load_task(name)

    async def run(self) -> None:
        """Run all checks. Raises InvalidRequest where the deployment names a model that the bundle does not have."""
        check_deployment(self.setup, self.deployment)
        written: Candidate | None = None
        loaded: dict[str, Generator] = {}
        for name, spec in self.setup.models.items():
            if not self._servers(name, spec):
                continue
            try:
                model = load_model(name, self.setup, self.folder, self.deployment)
            except RouterError as error:
                self._failed(name, f"can't be loaded: {error}")
                continue
            loaded[name] = model
            solution = await self._solution(name, spec, model)
            written = solution if name == self.setup.reference else written
        try:
            await self._score(written, loaded)
        finally:
            for model in loaded.values():
                await model.close()

    def _servers(self, name: str, spec: ModelSpec) -> bool:
        """Report what each of the model's servers says of itself. Return False if none can serve the model."""
        backend, urls = self.deployment.backend(name, spec), self.deployment.urls.get(name, ())
        if backend not in ("openai", "vllm") or not urls:
            return True
        able = 0
        from router.backends.probe import served

        wanted = [each for each in (spec.adapter, spec.reviser) if each]
        if backend == "openai" and not spec.adapter:
            wanted.insert(0, spec.model)
        for url in urls:
            try:
                models = served(url.removesuffix("/v1"), self.deployment.key(name), self.deployment.headers_of(name))
            except RouterError as error:
                self._failed(name, str(error))
                continue
            names = [each.name for each in models]
            owner = next((each.owner for each in models), "")
            missing = [each for each in wanted if each not in names]
            if missing and not (owner == "llamacpp" and missing == [spec.model]):  # llama.cpp takes any model name
                known = ", ".join(names[:10])
                self._failed(name, f"{url} does not serve {missing[0]!r}; it serves {known}")
                continue
            context = next((each.context for each in models if each.context), None)
            said = f"context of {context} tokens" if context else "it does not say its context"
            if context and context - spec.max_tokens < LEAST_ROOM:
                self._failed(
                    name,
                    f"{url} has a {said}, and max_tokens {spec.max_tokens} leaves {max(0, context - spec.max_tokens)} "
                    "for a prompt: lower max_tokens, or give the server more context",
                )
                continue
            able += 1
            self._passed(name, f"{url} answers ({owner or 'unknown software'}), serves {', '.join(names[:5])}; {said}")
        return able > 0

    async def _solution(self, name: str, spec: ModelSpec, model: Generator) -> Candidate | None:
        backend = self.deployment.backend(name, spec)
        can = capabilities(backend, spec)
        lacks = "" if "steps" in can else "; no steps, so beam_search, dvts and lookahead are left out"
        self._passed(
            name, f"{backend} can do: whole solutions, {', '.join(_CAN.get(each, each) for each in sorted(can))}{lacks}"
        )
        started, usage = time.monotonic(), Usage()
        try:
            (candidate,) = await model.extend(
                self.prompt,
                [Candidate()],
                steps=None,
                temperature=0.0,
                max_tokens=None,
                deadline=started + SECONDS,
                seed=0,
                usage=usage,
            )
        except RouterError as error:
            self._failed(name, f"writes nothing: {error}")
            return None
        seconds = time.monotonic() - started
        how = {"stop": "ended by itself", "length": f"cut at max_tokens = {spec.max_tokens}"}.get(
            candidate.end or "", f"not done after {SECONDS:.0f} s"
        )
        thought = f", {usage.thinking_tokens} of them thoughts" if usage.thinking_tokens else ""
        self._passed(name, f"wrote {usage.generated_tokens} tokens in {seconds:.1f} s{thought}, {how}")
        stated = self.task.extract(candidate.text) if candidate.finished else None
        if stated is not None:
            self._passed(name, f"answer found: {stated[:80]!r}")
        else:
            why = await why_none(self.task, candidate.text, stated) if candidate.finished else how
            self._failed(
                name,
                f"no answer found ({why}) in {candidate.text[-120:]!r}: ask for its form in the template's "
                "default_system, or raise max_tokens where it was cut",
            )
        if self.setup.verifier.kind == "log_prob" and "log_probs" in can and not candidate.log_probs:
            self._failed(
                name,
                'the server gives no log-probabilities, which the verifier log_prob reads: write "endpoint": '
                '{"log_probs": false}, and arms that need scores are left out',
            )
        return replace(candidate, answer=stated)

    async def _score(self, candidate: Candidate | None, loaded: Mapping[str, Generator]) -> None:
        spec = self.setup.verifier
        main = capabilities(self.deployment.backend(self.setup.reference, self.setup.main), self.setup.main)
        if spec.kind == "none" or (spec.kind == "log_prob" and "log_probs" not in main):
            self._passed(VERIFIER, f"{spec.kind} scores nothing here: arms that need scores are left out")
            return
        try:
            verifier = load_verifier(self.setup, self.folder, self.deployment, loaded)
        except RouterError as error:
            self._failed(VERIFIER, f"{spec.kind} can't be loaded: {error}")
            return
        try:
            if candidate is None and spec.kind in ("log_prob", "lowest_window"):
                return  # these score with the log-probabilities of what the model wrote
            asked, usage = Asked(self.prompt, self.task, self.setup.tasks[0]), Usage()
            scores, _ = await prepared(verifier, asked, usage)
            (scored,) = await scores.score(self.prompt, [candidate or STAND_IN], max_tokens=None, usage=usage)
        except RouterError as error:
            self._failed(VERIFIER, f"{spec.kind} scores nothing: {error}")
        else:
            if scored.score is None:
                self._failed(VERIFIER, f"{spec.kind} gave no score")
            else:
                self._passed(VERIFIER, f"{spec.kind} scored it {scored.score:.3f}")
        finally:
            await verifier.close()

    def _passed(self, name: str, what: str) -> None:
        self.checks += 1
        self.say(f"ok      {name}: {what}")

    def _failed(self, name: str, what: str) -> None:
        self.checks += 1
        self.failures += 1
        self.say(f"FAILED  {name}: {what}")
