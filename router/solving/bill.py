"""What one call spent: tokens by model and role, their FLOPs and money, and seconds by phase."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from router.backends import Usage
from router.backends.specs import VERIFIER, Setup

Role = Literal["generator", "verifier"]


@dataclass(frozen=True, slots=True)
class Rate:
    """The cost of a model's token.

    parameters  weights that a token passes through: it takes 2 * parameters floating-point operations
    input_price, output_price  money per token read and per token written; None where the model has no price
    """

    parameters: int
    input_price: float | None = None
    output_price: float | None = None

    def flops(self, usage: Usage) -> float:
        return 2.0 * self.parameters * (usage.prompt_tokens + usage.generated_tokens + usage.scored_tokens)

    def money(self, usage: Usage) -> float | None:
        if self.input_price is None:
            return None
        read = self.input_price * (usage.prompt_tokens + usage.scored_tokens)
        return read + (self.output_price or 0.0) * usage.generated_tokens


FREE = Rate(0)


def rates_of(setup: Setup) -> dict[str, Rate]:
    """Return the rates by model's name; the verifier's name is "verifier"."""
    rates = {name: Rate(spec.parameters, spec.input_price, spec.output_price) for name, spec in setup.models.items()}
    return rates | {VERIFIER: Rate(setup.verifier.parameters, setup.verifier.input_price)}


@dataclass(slots=True)
class Bill:
    """What a call spent so far. It grows while the models work, so it is right also when a call is cancelled.

    rates    by model's name; a model without one costs nothing
    lines    what each model spent, by its name and role
    seconds  by phase: route, generate, score
    """

    rates: Mapping[str, Rate] = field(default_factory=dict)
    lines: dict[tuple[str, Role], Usage] = field(default_factory=dict)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def line(self, model: str, role: Role) -> Usage:
        """Return the line of this model in this role, to be added to."""
        return self.lines.setdefault((model, role), Usage())

    def spent(self, role: Role) -> Usage:
        """Return what all models spent in one role."""
        total = Usage()
        for (_, own), usage in self.lines.items():
            if own == role:
                total.add(**asdict(usage))
        return total

    def flops(self, *, role: Role | None = None) -> float:
        """Return the floating-point operations of all models, or of one role."""
        return sum(
            self.rates.get(model, FREE).flops(usage)
            for (model, own), usage in self.lines.items()
            if role in (None, own)
        )

    def add(self, other: "Bill") -> None:
        """Add what another call spent."""
        for (model, role), usage in other.lines.items():
            self.line(model, role).add(**asdict(usage))
        for phase, seconds in other.seconds.items():
            self.seconds[phase] += seconds

    @property
    def money(self) -> float | None:
        """Money for all tokens; None where no model has a price."""
        costs = [self.rates.get(model, FREE).money(usage) for (model, _), usage in self.lines.items()]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if known else None

    @property
    def prompt_tokens(self) -> int:
        return sum(usage.prompt_tokens for usage in self.lines.values())

    @property
    def generated_tokens(self) -> int:
        return sum(usage.generated_tokens for usage in self.lines.values())

    @property
    def scored_tokens(self) -> int:
        return sum(usage.scored_tokens for usage in self.lines.values())

    @property
    def calls(self) -> int:
        """Number of requests to models."""
        return sum(usage.calls for usage in self.lines.values())
