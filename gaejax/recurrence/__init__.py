"""The kernel, `x[t] = drive[t] + decay[t] * x[t + 1]`, by the method that suits each platform and shape."""

from gaejax.recurrence.methods import isolated_product
from gaejax.recurrence.solve import METHODS, choose, reverse_linear_recurrence, solve

__all__ = ["METHODS", "choose", "isolated_product", "reverse_linear_recurrence", "solve"]
