"""The kernel, `x[t] = drive[t] + decay[t] * x[t + 1]`, in the forms that suit each platform and shape."""

from gaejax.recurrence.core import METHODS, choose, reverse_linear_recurrence, solve
from gaejax.recurrence.forms import isolated_product

__all__ = ["METHODS", "choose", "isolated_product", "reverse_linear_recurrence", "solve"]
