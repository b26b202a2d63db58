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
    if "history" in names:  # the custom environment is learned
        returns = names["history"].episode_return
        assert returns[-1] > 0.5 * returns[0] and returns[-1] > -5


def test_the_examples_have_the_promised_lengths():
    lines = [sum(bool(line.strip()) for line in example.splitlines()) for example in EXAMPLES]
    importing, _, composing, environment = lines
    assert importing <= 10 and composing <= 20 and environment <= 25
