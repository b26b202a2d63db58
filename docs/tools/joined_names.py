"""Lets docstrings describe several arguments at once, `values, next_values: ...`, which Griffe would misread."""

import re
from typing import Any

from griffe import Extension, Object

ENTRY = re.compile(r"^( *(?:\*{0,2}\w+, )+\*{0,2}\w+): ", flags=re.MULTILINE)


class JoinedNames(Extension):
    """Joins such names by non-breaking spaces; after a space a type would be expected."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = ENTRY.sub(lambda entry: _joined(entry[1]) + ": ", obj.docstring.value)


def _joined(names: str) -> str:
    indent = len(names) - len(names.lstrip())
    return names[:indent] + names[indent:].replace(" ", "\N{NO-BREAK SPACE}")
