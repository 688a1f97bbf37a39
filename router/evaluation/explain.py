"""Says in words how two plans differ, for readers of ``router diff``."""

from difflib import SequenceMatcher

from strategies import Cascade, Strategy


def explain(old: Strategy, new: Strategy) -> str:
    """Return a text like ``adds dvts(n=32, m=4) at the end; ends at 0.5 instead of 0.7``; empty without a cascade."""
    if not isinstance(old, Cascade) and not isinstance(new, Cascade):
        return ""
    before, after = _stages(old), _stages(new)
    said = []
    for kind, i, j, k, m in SequenceMatcher(a=before, b=after, autojunk=False).get_opcodes():
        gone, come = " > ".join(before[i:j]), " > ".join(after[k:m])
        if kind == "replace":
            said.append(f"runs {come} instead of {gone}")
        elif kind == "delete":
            said.append(f"no longer runs {gone}")
        elif kind == "insert":
            where = "first" if k == 0 else "at the end" if m == len(after) else f"after {after[k - 1]}"
            said.append(f"adds {come} {where}")
    ends, ended = _shown(_thresholds(new)), _shown(_thresholds(old))
    if ends and ends != ended:
        said.append(f"ends at {ends}" + f" instead of {ended}" * bool(ended))
    return "; ".join(said)


def _stages(arm: Strategy) -> list[str]:
    return [str(stage) for stage in arm.stages] if isinstance(arm, Cascade) else [str(arm)]


def _thresholds(arm: Strategy) -> tuple[float, ...]:
    return arm.thresholds if isinstance(arm, Cascade) else ()


def _shown(thresholds: tuple[float, ...]) -> str:
    return "/".join(f"{each:g}" for each in dict.fromkeys(thresholds))
