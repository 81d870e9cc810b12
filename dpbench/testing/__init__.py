"""The contract of plug-ins as checks: what a third party runs on its own plug-in, as dpbench does on its own.

All at once, where the first broken rule is an error of one line:

    >>> from dpbench.testing import check_defense, checks_for
    >>> from dpbench import FeatureTransform
    >>> class Sign(FeatureTransform):
    ...     '''Releases the sign of every feature.'''
    ...     name = "sign"
    ...     def transform(self, features, state, *, generator):
    ...         return features.sign()
    >>> check_defense(Sign)

or each rule a test of its own, under pytest:

    @pytest.mark.parametrize("check", checks_for(Sign))
    def test_contract(check):
        check()
"""

from dpbench.testing.checks import Check, check_attack, check_dataset, check_defense, check_metric, checks_for
from dpbench.testing.executors import check_executor
from dpbench.testing.rules import ContractError

__all__ = [
    "Check",
    "ContractError",
    "check_attack",
    "check_dataset",
    "check_defense",
    "check_executor",
    "check_metric",
    "checks_for",
]
