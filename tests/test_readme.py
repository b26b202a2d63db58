"""The README's Python examples run as they stand."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_example_runs(index):
    names = {}
    exec(EXAMPLES[index], names)
    if "history" in names:  # what is trained is learned
        least = {"walk to 0": -5, "MemoryChain-bsuite": 0.9}[names["environment"].name]
        assert names["history"].episode_return[-1] > least
    if "check_policy" in names:
        assert names["check_policy"](names["mine"]).passed


def test_the_examples_have_the_promised_lengths():
    lines = [sum(bool(line.strip()) for line in example.splitlines()) for example in EXAMPLES]
    importing, _, composing, _, environment, *_ = lines
    assert importing <= 10 and composing <= 20 and environment <= 25
