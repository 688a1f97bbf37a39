"""The report as files: evaluation.json, and one HTML page that needs nothing else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from router.evaluation.plots import draw, svg


def save_evaluation(report: Mapping[str, Any], out: Path) -> list[Path]:
    """Write both into the folder; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    files = {"evaluation.json": json.dumps(report, indent=1) + "\n", "report.html": page(report)}
    for name, text in files.items():
        (out / name).write_text(text)
    return [out / name for name in files]


def page(report: Mapping[str, Any]) -> str:
    """HTML with its plots inlined as SVG."""
    environment = Environment(
        loader=PackageLoader("router.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"interval": interval, "times": times}
    plots = {name: svg(figure, name) for name, figure in draw(report).items()}
    return environment.get_template("report.html").render(report=report, plots=plots)


def interval(point: Mapping[str, Any] | None) -> str:
    """``0.650 [0.537, 0.750]``"""
    return f"{point['accuracy']:.3f} [{point['low']:.3f}, {point['high']:.3f}]" if point else "not measured"


def times(saved: Mapping[str, Any], unit: str) -> str:
    """``4.20× [2.10, 6.00]`` fewer of a unit, or why not."""
    found = saved.get(unit)
    if not found:
        return "not measured"
    if not found["times"]:
        return f"never reached, or in {found['reached']:.0%} of resamples"
    return f"{found['times']:.2f}× [{found['low']:.2f}, {found['high']:.2f}]"
