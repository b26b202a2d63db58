"""Conformance suites for your own code."""

from gaejax.testing.conformance import FEATURES, Failure, Report, check_gae
from gaejax.testing.policies import check_policy
from gaejax.testing.reference import reference_gae, successor_value

__all__ = ["FEATURES", "Failure", "Report", "check_gae", "check_policy", "reference_gae", "successor_value"]
