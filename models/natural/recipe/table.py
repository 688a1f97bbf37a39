"""The results as Markdown: the README's table, and the longer ones for the log."""

from collections.abc import Callable, Mapping
from typing import Any

WAYS = {
    "best_fixed_arm": "best fixed arm",
    "best_fixed_cascade": "best fixed cascade",
    "random_mix": "random mix of two arms",
    "shuffled_levels": "levels shuffled",
    "larger_alone": "`large` alone",
    "level_only": "levels only",
    "confidence_only": "confidence only",
    "arm_of_each_task": "arm of each task",
    "nearest_neighbours": "best at similar prompts",
}


def table(results: Mapping[str, Any]) -> str:
    """All of them, one after the other."""
    measured = {name: found for name, found in results.items() if name != "math"}
    parts = [overview(measured), difficulties(results)]
    for name, found in measured.items():
        parts += [at_flops(name, found), verifiers(name, found), repair(name, found)]
        parts += [tasks(name, found), mixing(name, found)]
    missing = [
        f"- {name}, {', '.join(f'`{figure}`' for figure in figures)}: {reason}"
        for name, found in measured.items()
        for reason, figures in _by_reason(found.get("reasons") or {}).items()
    ]
    return (
        "\n\n".join([part for part in parts if part] + ["Not measured:\n\n" + "\n".join(missing)] * bool(missing))
        + "\n"
    )


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for figure, reason in reasons.items():
        found.setdefault(reason, []).append(figure)
    return found


TITLES = {"gsm8k": "GSM8K", "mbpp": "MBPP, one public test", "mmlu-stem": "MMLU STEM", "mixed": "all three mixed"}


def readme(results: Mapping[str, Any]) -> str:
    """What the project's README opens with; in round brackets what a perfect choice among all attempts has."""
    rows: dict[str, Callable[[Any], str]] = {
        "Prompts to tune on, held out": lambda f: f"{f['tuning_prompts']}, {f['prompts']}",
        "`small`: one sample; 16 (MMLU: 8), chosen by vote or test": lambda f: f"{_one_sample(f):.2f}{_chosen(f)}",
        "`large`, one greedy solution": lambda f: f"{_at(f, 1)['ways']['larger_alone']['point']['accuracy']:.2f}",
        "Policy, at that cost; at 1.5 times it": lambda f: (
            f"{_at(f, 1)['policy']['accuracy']:.2f}; {_at(f, 1.5)['policy']['accuracy']:.2f}"
        ),
        "Gain over `large` at equal cost; goal 0.03": lambda f: _goal(f["gain_at_large_cost"], "{:+.3f}"),
        "Gain over the best fixed arm there; goal above 0": lambda f: _gain_of(f, "best_fixed_arm"),
        "Gain over the best fixed cascade there; goal above 0": lambda f: _gain_of(f, "best_fixed_cascade"),
        "Gain over a random mix of two arms there; goal above 0": lambda f: _gain_of(f, "random_mix"),
        "Budgets and FLOPs at which an arm or cascade for all prompts is clearly better; goal none": _below,
        "Cost of `large`'s accuracy, `large` = 1; goal 0.8": lambda f: _goal(f["share_of_large_cost"], "{:.2f}"),
        "Cost of `large`'s best of 8, that = 1; goal 0.25": lambda f: _goal(f["share_of_best_of_n_cost"], "{:.2f}"),
        "Difficulty as served, from text: Spearman with the pass rate (at most)": _served,
        "Difficulty from `small`'s hidden state, in folds: above text; goal 0.10": lambda f: _estimate(
            f["features"]["hidden"]["folds"]["above_text"], sign=True
        ),
        "Error of the answers' confidences (by chance)": lambda f: "{value:.2f} ({chance:.2f})".format(
            **f["confidence_error"]
        ),
    }
    lines = _head(["", *TITLES.values()])
    for name, cell in rows.items():
        lines.append(_row([name, *(_tried(cell, results[bundle]) for bundle in TITLES)]))
    return "\n".join(lines).replace("-0.", "−0.")


def _one_sample(found: Any) -> float:
    tasks = [row["sample"] for row in found["tasks"]]
    return float(sum(tasks) / len(tasks) if tasks else found["verifiers"][0]["best_of"]["4"]["one_sample"])


def _chosen(found: Any) -> str:
    """Of the largest pool: by the verifier that is used, else by votes; nothing for several tasks."""
    if not found["verifiers"]:
        return ""
    used = next((row for row in found["verifiers"] if row["used"]), None)
    row = list((used or found["verifiers"][0])["best_of"].values())[-1]
    return f"; {row['best_of_n' if used else 'majority']:.2f}"


def _goal(found: Any, form: str) -> str:
    perfect = f" ({form.format(found['ceiling'])})" + (f", {found['prompts']} prompts" if "prompts" in found else "")
    if found["value"] is None:
        return f"not reached{perfect}"
    ends = ", ".join("never" if found[end] is None else form.format(found[end]) for end in ("low", "high"))
    return f"{form.format(found['value'])} [{ends}]{perfect}"


def _served(found: Any) -> str:
    return f"{found['difficulty']['spearman']:.2f} ({found['difficulty_ceiling']:.2f})"


def _gain_of(found: Any, way: str) -> str:
    """The policy's gain at the larger model's cost, and that of a perfect choice."""
    row = _at(found, 1)
    gain = row["gains"][way]
    perfect = row["perfect"] - row["policy"]["accuracy"] + gain["value"]
    return f"{_estimate(gain, sign=True)} ({perfect:+.3f})"


def _below(found: Any) -> str:
    return "; ".join(f"{_estimate(row, sign=True)} at {row['at']}" for row in found["below_best_fixed"]) or "none"


def overview(measured: Mapping[str, Any]) -> str:
    """What the README opens with."""
    rows: dict[str, Callable[[Any], str]] = {
        "prompts to tune on, held out": lambda f: f"{f['tuning_prompts']}, {f['prompts']}",
        "`large` alone, greedy": lambda f: _accuracy(f, "larger_alone"),
        "policy at that cost, gain": lambda f: _estimate(f["gain_at_large_cost"], sign=True),
        "share of that cost for that accuracy": lambda f: _estimate(f["share_of_large_cost"]),
        "share of `large`'s best vote's cost for its accuracy": lambda f: _estimate(f["share_of_best_of_n_cost"]),
        "gain over the best fixed arm at `large`'s cost": lambda f: _gain(f, "best_fixed_arm"),
        "gain over the best fixed cascade there": lambda f: _gain(f, "best_fixed_cascade"),
        "gain over shuffled levels there": lambda f: _gain(f, "shuffled_levels"),
        "difficulty: Spearman, of at most": lambda f: _spearman(f["difficulty"]),
        "error of confidences": lambda f: f"{f['confidence_error']['value']:.3f}",
    }
    lines = _head(["", *measured])
    for name, cell in rows.items():
        lines.append(_row([name, *(_tried(cell, found) for found in measured.values())]))
    return "In brackets 95% intervals over prompts, then what a perfect choice among all attempts would do.\n\n" + (
        "\n".join(lines)
    )


def difficulties(results: Mapping[str, Any]) -> str:
    """What each kind of features knows, held out and in folds over all prompts, and what the policy gains with it."""
    folds = ["Spearman in folds", "above text"]
    heads = [
        "",
        "features",
        "log-loss",
        "ECE",
        "kappa",
        "Spearman",
        "of at most",
        *folds,
        "ms",
        "policy gains",
        "if read for nothing",
    ]
    lines = _head(heads)
    for name, found in results.items():
        ceiling = found.get("difficulty_ceiling")
        for kind, row in (found.get("features") or {}).items():
            crossed = row.get("folds")
            more = [f"{crossed['spearman']:.3f}", _estimate(crossed["above_text"], sign=True)] if crossed else ["", ""]
            if "log_loss" not in row:
                lines.append(_row([name, kind, row["reason"], *[""] * 4, *more, *[""] * 3]))
                continue
            numbers = [f"{row[key]:.3f}" for key in ("log_loss", "ece", "kappa", "spearman")]
            gain = _estimate(row["gain"], sign=True) if "gain" in row else "not measured"
            free = _estimate(row["gain_free"], sign=True) if "gain_free" in row else ""
            milliseconds = f"{row['milliseconds']:.1f}"
            lines.append(_row([name, kind, *numbers, _number(ceiling), *more, milliseconds, gain, free]))
    return "\n".join(lines)


def at_flops(name: str, found: Mapping[str, Any]) -> str:
    rows = found.get("at_flops") or []
    if not rows:
        return ""
    unit = "`large`" if "larger_alone" in rows[-1]["ways"] else "one sample"
    ways = [way for way in WAYS if way in rows[-1]["ways"]]
    lines = _head([f"{name}: share of {unit}", "policy", *(f"less {WAYS[way]}" for way in ways), "perfect"])
    for row in rows:
        gains = [_estimate(row["gains"].get(way), sign=True) for way in ways]
        policy = row["policy"]
        lines.append(_row([f"{row['share']:g}", f"{policy['accuracy']:.3f}", *gains, f"{row['perfect']:.3f}"]))
    return "\n".join(lines)


def verifiers(name: str, found: Mapping[str, Any]) -> str:
    rows = found.get("verifiers") or []
    if not rows:
        return ""
    titles = [
        "verifier",
        "prompts",
        "AUC within",
        "ECE",
        "FLOPs, in samples",
        "N",
        "majority",
        "best of N",
        "weighted",
        "perfect",
        "best of N less majority",
        "less best of N by log-probability, same prompts",
    ]
    lines = _head([f"{name}: {titles[0]}", *titles[1:]])
    for row in rows:
        if "best_of" not in row:
            lines.append(_row([row["verifier"], row["reason"], *[""] * (len(titles) - 2)]))
            continue
        n, best = list(row["best_of"].items())[-1]
        picks = [f"{best[key]:.3f}" for key in ("majority", "best_of_n", "weighted_best_of_n", "oracle")]
        first = [
            row["verifier"],
            row["prompts"],
            _between(row["auc_within"], row["auc_within_interval"]),
            f"{row['ece']:.3f}",
            f"{row['share']:.2f}",
        ]
        gains = [best["above_majority"]["best_of_n"], (row.get("above_log_prob") or {}).get("best_of_n")]
        above = ["" if each is None else _estimate(each, sign=True) for each in gains]
        lines.append(_row([*first, n, *picks, *above]))
    return "\n".join(lines)


def repair(name: str, found: Mapping[str, Any]) -> str:
    rows = found.get("repair")
    if not rows or "reason" in rows:
        return ""
    lines = _head(
        [f"{name}: {rows['prompts']} prompts", "accuracy", "FLOPs, in samples", "sampled anew", "repair gains"]
    )
    for arm, row in rows.items():
        if arm != "prompts":
            numbers = f"{row['accuracy']:.3f}", f"{row['samples']:.2f}", f"{row['anew']:.3f}"
            lines.append(_row([f"`{arm}`", *numbers, _estimate(row["gain"], sign=True)]))
    return "\n".join(lines)


def tasks(name: str, found: Mapping[str, Any]) -> str:
    rows = found.get("tasks") or []
    if not rows:
        return ""
    lines = _head([f"{name}: task", "prompts", "one sample", "policy", "`large`", "policy less `large`", "Spearman"])
    for row in rows:
        larger = f"{row['ways']['larger_alone']['point']['accuracy']:.3f}"
        cells = [row["task"], row["prompts"], f"{row['sample']:.3f}", f"{row['policy']['accuracy']:.3f}", larger]
        lines.append(_row([*cells, _estimate(row["gains"]["larger_alone"], sign=True), f"{row['spearman']:.2f}"]))
    return "\n".join(lines)


def mixing(name: str, found: Mapping[str, Any]) -> str:
    rows = found.get("mixing") or {}
    if not rows or "reason" in rows:
        return ""
    lines = _head(
        [f"{name}: share", "one policy", "three, one price", "three, each its share", "sharing gains", "one costs"]
    )
    for share, row in rows.items():
        numbers = [f"{row[key]:.3f}" for key in ("mixed", "together", "apart")]
        gains = [_estimate(row[key], sign=True) for key in ("gain_of_sharing", "loss_of_one_model")]
        lines.append(_row([share, *numbers, *gains]))
    return "\n".join(lines)


def _tried(cell: Callable[[Any], str], found: Any) -> str:
    try:
        return cell(found)
    except (KeyError, TypeError, StopIteration):
        return "not measured"


def _at(found: Any, share: float) -> Any:
    return next(row for row in found["at_flops"] if row["share"] == share)


def _accuracy(found: Any, way: str) -> str:
    point = _at(found, 1)["ways"][way]["point"]
    return f"{point['accuracy']:.3f} [{point['low']:.3f}, {point['high']:.3f}]"


def _gain(found: Any, way: str) -> str:
    return _estimate(_at(found, 1)["gains"][way], sign=True)


def _spearman(difficulty: Any) -> str:
    return f"{difficulty['spearman']:.2f}, {_number(difficulty['ceiling'])}"


def _estimate(found: Any, *, sign: bool = False) -> str:
    if found is None:
        return "not measured"
    form = "{:+.3f}" if sign else "{:.2f}"
    if found["value"] is None:
        return "not reached" + _ceiling(found, form)
    ends = ", ".join("never" if found[end] is None else form.format(found[end]) for end in ("low", "high"))
    return f"{form.format(found['value'])} [{ends}]" + _ceiling(found, form)


def _ceiling(found: Any, form: str) -> str:
    ceiling = found.get("ceiling")
    return "" if ceiling is None else f"; perfect {form.format(ceiling)}"


def _between(value: float, ends: Any) -> str:
    return f"{value:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.2f}"


def _head(cells: list[Any]) -> list[str]:
    return [_row(cells), _row(["---"] * len(cells))]


def _row(cells: list[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
