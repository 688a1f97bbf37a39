"""What differs between two plans, in words."""

import pytest

from router.evaluation.explain import explain
from strategies import parse


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("single", "majority(n=4)", ""),
        ("single @0.7 > majority(n=4)", "single @0.5 > majority(n=4)", "ends at 0.5 instead of 0.7"),
        ("single", "single @0.5 > majority(n=4)", "adds majority(n=4) at the end; ends at 0.5"),
        ("single @0.5 > majority(n=4)", "single", "no longer runs majority(n=4)"),
        ("single @0.5 > majority(n=4)", "single @0.5 > majority(n=8)", "runs majority(n=8) instead of majority(n=4)"),
        (
            "single @0.5 > majority(n=8)",
            "single @0.5 > majority(n=4) @0.5 > majority(n=8)",
            "adds majority(n=4) after single",
        ),
    ],
)
def test_it_names_stages_and_thresholds(old, new, says):
    assert explain(parse(old), parse(new)) == says
