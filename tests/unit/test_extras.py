"""What an import misses is explained by the extra that brings it."""

import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from router.extras import EXTRAS, missing

PROJECT = tomllib.loads((Path(__file__).parent.parent.parent / "pyproject.toml").read_text())["project"]
PACKAGES = {
    extra: {re.split(r"[\[><=]", requirement)[0] for requirement in requirements}
    for extra, requirements in PROJECT["optional-dependencies"].items()
}


def test_every_extra_is_known():
    assert EXTRAS.keys() == PACKAGES.keys()


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_what_is_said_of_it(extra):
    brought_by = packages_distributions()
    for module in EXTRAS[extra]:
        assert PACKAGES[extra] & {name.lower().replace("_", "-") for name in brought_by[module.partition(".")[0]]}, (
            module
        )


@pytest.mark.parametrize(
    ("module", "shown"),
    [
        ("pandas", "pip install 'compute-optimal-router[offline]'"),
        ("torch", "pip install torch, then pip install 'compute-optimal-router[in-process]'"),
        ("opentelemetry.sdk.trace", "pip install 'compute-optimal-router[traces]'"),
    ],
)
def test_what_is_missing_names_the_way_out(module, shown):
    assert str(missing(ModuleNotFoundError(name=module))) == f"this needs {module}: {shown}"


@pytest.mark.parametrize("module", ["router.nowhere", "grpc", "pandasaurus", None])
def test_other_imports_that_fail_are_no_extra(module):
    assert missing(ModuleNotFoundError(name=module)) is None
