"""Lets Griffe, which reads the docstrings, understand three habits of this code."""

import re
from typing import Any

from griffe import Attribute, ExprCall, ExprKeyword, Extension, Object

SEVERAL_NAMES = re.compile(r"^( *)((?:\*{0,2}\w+, )+\*{0,2}\w+): ", flags=re.MULTILINE)
CODE = re.compile(r"``[^`]+``|`[^`]+`|^ {4,}.*$", flags=re.MULTILINE)
PRODUCT = re.compile(r"(?<=[\w)\]])\*+(?=[\w(])")


class Habits(Extension):
    """Adapts docstrings and values before they are rendered."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """An entry may describe several arguments (`values, next_values: ...`); stars are products, not emphasis."""
        if obj.docstring:
            text = SEVERAL_NAMES.sub(_joined, obj.docstring.value)
            prose, *sections = re.split(r"^(?=\w+:$)", text, maxsplit=1, flags=re.MULTILINE)
            obj.docstring.value = _escaped(prose) + "".join(sections)

    def on_attribute(self, *, attr: Attribute, **_: Any) -> None:
        """The value of a config's field is its default, not the call that says how JAX treats it."""
        if isinstance(attr.value, ExprCall) and str(attr.value.function).endswith("field"):
            for argument in attr.value.arguments:
                if isinstance(argument, ExprKeyword) and argument.name == "default":
                    attr.value = argument.value


def _joined(entry: re.Match) -> str:
    """With non-breaking spaces: after a space a type would be expected."""
    return f"{entry[1]}{entry[2].replace(' ', chr(0xA0))}: "


def _escaped(prose: str) -> str:
    """Text before the sections, with stars between factors escaped outside of code."""
    parts, start = [], 0
    for code in CODE.finditer(prose):
        parts += [PRODUCT.sub(_with_backslashes, prose[start : code.start()]), code[0]]
        start = code.end()
    return "".join(parts) + PRODUCT.sub(_with_backslashes, prose[start:])


def _with_backslashes(stars: re.Match) -> str:
    return "\\*" * len(stars[0])
