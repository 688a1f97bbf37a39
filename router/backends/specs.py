"""What a bundle says of its models: files of the deployment never do, and a bundle never says where they answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from router.backends.template import OwnTemplate, Template
from router.backends.verifiers import filled, kind_of
from router.schema import LEAST_WORTH, STRICT, Amount, Count, Finite, Name, Positive

EMBEDDED = "smollm2-135m-instruct"  # the model that comes out of a wheel
VERIFIER = "verifier"  # where a model is named, the verifier has this name


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What the server of a model wants besides, for the backend "openai". It shapes the samples: keys never stand here.

    extra_body  keys of every request's body that the router does not know; null leaves out one that it does
                ("seed": null)
    length_key  what the body calls the longest answer
    log_probs   whether the server says how likely each token was
    """

    __pydantic_config__ = STRICT

    extra_body: Mapping[str, Any] = field(default_factory=dict)
    length_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    log_probs: bool = True


@dataclass(frozen=True, slots=True)
class Thinking:
    """How long a model thinks before it answers. Thoughts are billed, and no part of the solution.

    budget     tokens of a thought, at most; 0: none. In process and on vLLM a thought that is longer is closed there,
               and the answer written after it
    effort     for the backend "openai": sent as ``reasoning_effort``
    parameter  for the backend "openai": the body's key that takes the budget, with dots where it is nested, such as
               "thinking_token_budget" (vLLM) or "thinking_budget_tokens" (llama.cpp)
    begin, end  text around a thought; a prompt that ends with ``begin`` gets no second one
    closing    what the model is made to say where its thought is cut off, before ``end``
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
            raise ValueError("thinking needs a budget, or for the backend openai an effort")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A language model that writes.

    model        "smollm2-135m-instruct" for the embedded model, else a folder or hub id that transformers loads; for
                 the backend "openai" the name that the server has for it
    parameters   weights that a token passes through, for FLOPs
    template     text around the messages, or the tokenizer's own chat template
    temperature  of sampling;  max_tokens  longest solution
    adapter      folder in the bundle with a LoRA adapter; None without one
    reviser      another adapter, which writes an attempt in sight of earlier ones; None: the model's own does
    backend      what runs it unless the deployment says otherwise: a name in ``registry.BACKENDS``
    input_price, output_price  money for a token that it reads and writes; None where nobody is billed
    endpoint     what its server wants besides; for the backend "openai" only
    thinking     how long it thinks first; None: as it does by itself
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
        """Of sampling, for a request that asks for its own: at most the model's, at which it was measured."""
        return self.temperature if asked is None else min(asked, self.temperature)

    def longest_of(self, asked: int | None) -> int:
        """Tokens of the longest solution, for a request that asks for its own: at most the model's."""
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

    kind     one of ``backends.verifiers.KINDS``, where ``model`` is one of the bundle's and ``parameters`` are its; or
             "prm": ``adapter`` is a LoRA and step-scoring head on the reference model's base; "likelihood": ``adapter``
             makes it a language model that knows the task better than the reference model; "log_prob": the writing
             model's own log-probability; or a published format (``router.backends.prm.FORMATS``), whose weights are
             ``model``
    model    folder or hub id of a published process reward model; None for the other kinds
    slope, intercept  of the log-odds of its raw scores (Platt, 1999): 1 and 0 leave them as they are. Votes are weighed
             by scores, so they should be probabilities; `router calibrate` fits both
    input_price  money for a token that it reads; None where nobody is billed
    options  what else its kind lets one say, see ``backends.verifiers``
    by_task  slope and intercept by the name of a task, where the bundle has several
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
        """Name of the bundle's model that it asks; None where it has a model of its own, or none."""
        return self.model if kind_of(self.kind).asks else None


TaskNames = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]  # JSON has lists


@dataclass(frozen=True, slots=True)
class Setup:
    """What a bundle, also one in the making, is measured on; ``models.json`` in its folder.

    name       of the bundle
    task       name of the task, or module:object; or several, of which a request names one: the first by default
    reference  name of the model whose solutions budgets count
    models     by name: those that an arm may ask
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
                "task: nothing tells when two free texts are the same, so there are no votes: name a judge as verifier"
            )
        object.__setattr__(self, "verifier", self._whole_verifier())
        for name, worth in self.worth.items():
            if not LEAST_WORTH <= worth <= 1 / LEAST_WORTH:
                raise ValueError(
                    f"a solution of {name!r} would cost {worth:g} of the reference model's: mend the prices"
                )

    def _whole_verifier(self) -> VerifierSpec:
        """With all options of its kind, and of a model that it asks the parameters and the price."""
        spec = self.verifier
        spec = replace(spec, options=filled(spec.kind, spec.options))
        if not kind_of(spec.kind).asks:
            return spec
        if spec.model is None or spec.model not in self.models:
            known = ", ".join(self.models)
            raise ValueError(f"verifier.model: a {spec.kind!r} asks one of the models {known}, not {spec.model!r}")
        model = self.models[spec.model]
        if spec.parameters not in (0, model.parameters):
            raise ValueError(f"verifier.parameters: those of {spec.model!r} are {model.parameters}; leave them out")
        return replace(spec, parameters=model.parameters, input_price=model.input_price)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of its tasks, the first one by default."""
        return (self.task,) if isinstance(self.task, str) else self.task

    @property
    def main(self) -> ModelSpec:
        """The reference model."""
        return self.models[self.reference]

    def parameters(self, model: str | None) -> int:
        return self.models[model or self.reference].parameters

    @property
    def worth(self) -> dict[str, float]:
        """What a solution of each model costs, in solutions of the reference model: by price, else by parameters.

        One that thinks also counts by how much longer than its longest solution it is with the longest thought.
        """
        return {name: self._weight(spec) / self._weight(self.main) for name, spec in self.models.items()}

    def _weight(self, spec: ModelSpec) -> float:
        priced = all(each.output_price for each in self.models.values())
        token = float(spec.output_price or 0) if priced else float(spec.parameters)
        thoughts = (spec.thinking.budget or 0) if spec.thinking else 0
        return token * (spec.max_tokens + thoughts) / spec.max_tokens

    @property
    def adapters(self) -> list[str]:
        """Folders of the bundle with weights."""
        writers = [folder for spec in self.models.values() for folder in (spec.adapter, spec.reviser)]
        return [folder for folder in (*writers, self.verifier.adapter) if folder]


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where models answer, and what runs them: a matter of the deployment, never of a bundle.

    urls      base URLs by model's name, one a replica; "verifier" is the verifier's
    backends  a backend by model's name instead of the bundle's; "" is all models'
    api_key   bearer token that these servers ask for
    api_keys  others than that, by model's name
    headers   sent to a model's servers besides, by model's name; "" is all models'
    memory    GiB that keys and values of the models in this process may take; None: by what is free
    """

    urls: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    backends: Mapping[str, str] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)
    memory: float | None = None
    api_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)

    def backend(self, name: str, spec: ModelSpec) -> str:
        return self.backends.get(name) or self.backends.get("") or spec.backend

    def key(self, name: str) -> str | None:
        return self.api_keys.get(name) or self.api_key

    def headers_of(self, name: str) -> dict[str, str]:
        return {**self.headers.get("", {}), **self.headers.get(name, {})}
