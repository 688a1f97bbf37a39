"""Writes the report as files: evaluation.json, and one HTML page that needs no other file."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from router.evaluation import words
from router.evaluation.plots import draw, shown_curves, svg
from router.evaluation.report import Report
from router.policy.words import number, si, strategies_in

_FILTERS = ("interval", "value", "bounds", "difference", "signed", "times", "gap", "arm", "curve")
_DESCRIPTIONS = {
    "generations": "Accuracy against generations, a line for each way to choose arms",
    "flops": "Accuracy against FLOPs, a line for each way to choose arms",
    "levels": "Accuracy against budget at each level, a line for each strategy",
    "revisions": "Accuracy of solutions written one after the other and of independent ones, by level",
    "averages": "Accuracy against generations at average budgets, a line for each way to choose",
    "plans": "What the policy runs at each level, stage by stage",
    "trust": "Share of right answers against confidence, by tenths of confidence",
    "larger": "Accuracy of the small model by the solutions it writes, and of the larger model, by group of prompts",
}


def save_evaluation(report: Report, out: Path) -> list[Path]:
    """Write both files into the folder; return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    files = {"evaluation.json": report.to_json(), "report.html": page(report)}
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
    return [out / name for name in files]


def page(report: Report) -> str:
    """Return the report as HTML, with style and plots inside."""
    figures = draw(report)
    return render(
        "report.html",
        report=report,
        plots={name: svg(figure, name, _DESCRIPTIONS[name]) for name, figure in figures.items()},
        shown=shown_curves(report),
    )


def render(template: str, **values: Any) -> str:
    """Render a template of this package, which may use the functions of ``words``. HTML in values is escaped."""
    environment = Environment(
        loader=PackageLoader("router.evaluation", "templates"),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {name: getattr(words, name) for name in _FILTERS} | {"si": si, "number": number}
    environment.globals["strategies_in"] = strategies_in
    return environment.get_template(template).render(words=words, **values)
