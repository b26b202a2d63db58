"""Conformance suites for code of your own."""

from gaejax.testing.conformance import FEATURES, Failure, Report, check_gae
from gaejax.testing.reference import reference_gae, successor_value

__all__ = ["FEATURES", "Failure", "Report", "check_gae", "reference_gae", "successor_value"]
