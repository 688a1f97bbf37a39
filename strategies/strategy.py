"""The base of all strategies: parameters that are checked, one spelling as text, and the most that an arm spends.

An *arm* is a strategy with its parameters, its budget and its model, such as ``beam_search(n=16, m=4)`` or
``majority(n=4, model=large)``. A strategy is a frozen dataclass; its fields are the arm's parameters, and everything
that reads arms (the parser, the service, the policy, the tuner) reads them there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from strategies.requests import Search

if TYPE_CHECKING:
    from strategies.replaying.records import Recorded, Runs

LARGEST = 4096  # solutions that an arm may sample: far beyond any measured budget, well within memory
ALIKE: Mapping[str, float] = MappingProxyType({})  # a solution of any model counts as one of the reference model's


class InvalidArm(ValueError):
    """An arm that can't be run; ``field`` names the parameter that is wrong."""

    def __init__(self, field: str, message: str):
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Strategy:
    """Base of all strategies. A subclass sets ``name``, adds its parameters as fields, and defines :meth:`search`.

    model  name of the model that writes; None: the bundle's reference model

    name         the strategy's name in an arm's text
    needs_steps  it continues unfinished solutions step by step, so the model's backend must continue an exact prefix
    needs_scores  it chooses by a verifier's scores
    needs_findings  it shows the model what the verifier found wrong, so the verifier must say so
    revises      it shows the model its earlier attempts

    Raises InvalidArm where a parameter is wrong. Equal arms are equal values; they sort by name, then parameters.
    """

    name: ClassVar[str]
    needs_steps: ClassVar[bool] = False
    needs_scores: ClassVar[bool] = False
    needs_findings: ClassVar[bool] = False
    revises: ClassVar[bool] = False

    model: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self.check()
        spent = sum(self.solutions.values())
        if spent > LARGEST:
            raise InvalidArm("n", f"{self.name} may sample at most {LARGEST} solutions, got {spent}")

    def check(self) -> None:
        """Raise InvalidArm for a parameter out of range: whole numbers start at 1, ``m`` and ``chains`` divide n."""
        if self.model is not None and not is_model_name(self.model):
            raise InvalidArm("model", f"{self.model!r} is not a model's name; use letters, digits, '_', '.' and '-'")
        values = self.parameters
        for name, value in values.items():
            if isinstance(value, int) and value < 1:
                raise InvalidArm(name, f"{self.name} needs {name} of at least 1, got {value}")
        for name in ("m", "chains"):
            if name in values and values["n"] % values[name]:
                raise InvalidArm(
                    "n", f"{self.name} needs n divisible by {name}, got n={values['n']}, {name}={values[name]}"
                )
        stop = values.get("stop", 0.0)
        if stop and not 0.5 < stop < 1:
            raise InvalidArm(
                "stop", f"stop is a probability above 0.5 and below 1, got {stop}; leave it out to take all n samples"
            )

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters by name, in the order of the arm's text, without the model."""
        names = _parameters(type(self))  # type: ignore[arg-type]  # a class is hashable, which mypy doubts
        return {name: getattr(self, name) for name in names}

    @property
    def solutions(self) -> Mapping[str | None, int]:
        """The most complete solutions that the arm samples, by model."""
        return {self.model: self.parameters.get("n", 1)}

    @property
    def scores_answers(self) -> bool:
        """Whether its answer comes with a verifier's score, where there is a verifier."""
        return self.needs_scores or self.revises

    @property
    def rows(self) -> int:
        """The most candidates that the arm writes at the same time."""
        return max(self.solutions.values())

    def budget(self, worth: Mapping[str, float] = ALIKE) -> float:
        """Return the most that the arm samples, in complete solutions of the reference model.

        worth  cost of a solution of each model, in solutions of the reference model; 1 where a model is missing
        """
        total = sum(
            count * (1.0 if model is None else worth.get(model, 1.0)) for model, count in self.solutions.items()
        )
        return int(total) if total == int(total) else total

    @property
    def models(self) -> frozenset[str | None]:
        """The models that the arm may ask to write; None is the reference model."""
        return frozenset(self.solutions)

    def referring(self, reference: str) -> Self:
        """Return the same arm with the reference model's name left out, so that every arm has one spelling."""
        return replace(self, model=None) if self.model == reference else self

    def search(self) -> Search:
        """Return a fresh search, for a driver to run."""
        raise NotImplementedError

    def replay(self, recorded: "Recorded") -> "Runs | None":
        """Return what runs of this arm would have given at one prompt, from what was recorded there; None if unknown.

        By default this uses complete runs of the arm only. Arms that only sample are replayed from a pool of attempts.
        """
        return recorded.runs.get(str(self))

    def __str__(self) -> str:
        shown = [f"{name}={value}" for name, value in self.parameters.items() if value]
        shown += [f"model={self.model}"] * (self.model is not None)
        return f"{self.name}({', '.join(shown)})" if shown else self.name

    def __lt__(self, other: "Strategy") -> bool:
        return self._order < other._order

    @cached_property
    def _order(self) -> tuple[Any, ...]:
        return self.name, tuple(self.parameters.values()), self.model or ""


@cache  # tuning asks an arm a thousand times
def _parameters(strategy: type[Strategy]) -> tuple[str, ...]:
    """The names of its fields but for the model."""
    return tuple(each.name for each in fields(strategy) if each.name != "model")


def is_name(text: str) -> bool:
    """Whether the text can be a strategy's name."""
    return text.isascii() and text.isidentifier()


def is_model_name(text: str) -> bool:
    return 0 < len(text) <= 64 and text[0].isalnum() and text.isascii() and all(c.isalnum() or c in "_.-" for c in text)
