"""The name of a pool of independent attempts in the ``arm`` column: ``sample``, or ``sample(model=large)``."""

from strategies.strategy import InvalidArm, is_model_name

SAMPLE = "sample"


def pool_of(model: str | None) -> str:
    return SAMPLE if model is None else f"{SAMPLE}(model={model})"


def model_of(arm: str) -> str | None:
    """Return the model in a pool's name; None: the reference model. Raises InvalidArm."""
    inside = arm.strip().removeprefix(SAMPLE).strip()
    name = inside.removeprefix("(").removesuffix(")").replace(" ", "").removeprefix("model=")
    if not inside:
        return None
    if not inside.startswith("(") or not inside.endswith(")") or not is_model_name(name):
        raise InvalidArm("model", f"can't read {arm!r}; a pool of attempts is {SAMPLE} or {SAMPLE}(model=NAME)")
    return name


def is_pool(arm: str) -> bool:
    return arm.partition("(")[0].strip() == SAMPLE
