"""What pyproject.toml can't say: the shipped bundle lies outside the packages and travels in the wheel as data."""

import json
from pathlib import Path

from setuptools import find_packages, setup

BUNDLE = "smollm2-135m"
served = json.loads((Path(__file__).parent / "models" / BUNDLE / "manifest.json").read_text())["files"]

setup(
    packages=[*find_packages(include=["router*", "difficulty*", "strategies*"]), "router._bundles"],
    package_dir={"router._bundles": "models"},
    package_data={
        **{name: ["py.typed"] for name in ("router", "strategies", "difficulty")},
        "router.evaluation": ["templates/*"],
        "router.service.ui": ["templates/*", "templates/*/*", "static/*"],
        "router.outcomes.migrations": ["script.py.mako"],
        "router._bundles": [f"{BUNDLE}/{name}" for name in ("manifest.json", "models.json", "card.md", *served)],
    },
)
