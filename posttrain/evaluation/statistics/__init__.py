"""What numbers from a sample of problems can tell: intervals, paired tests, samples, power.

NumPy is imported by the functions that draw or count with it: summaries are imported by commands
that start light.
"""

from posttrain.evaluation.statistics.intervals import (
    LEVEL,
    RatioEstimate,
    bootstrap_interval,
    estimate_ratio,
    estimate_share,
    sum_clusters,
    wilson_interval,
)
from posttrain.evaluation.statistics.paired import (
    PairedComparison,
    adjust_p_values,
    compare_paired,
    compare_texts,
    compare_values,
    flip_signs,
    mcnemar_exact,
    simultaneous_level,
)
from posttrain.evaluation.statistics.power import (
    POWER,
    detectable_difference,
    mcnemar_power,
    problems_needed,
)
from posttrain.evaluation.statistics.samples import majority_at_k, pass_at_k

__all__ = [
    "LEVEL",
    "POWER",
    "PairedComparison",
    "RatioEstimate",
    "adjust_p_values",
    "bootstrap_interval",
    "compare_paired",
    "compare_texts",
    "compare_values",
    "detectable_difference",
    "estimate_ratio",
    "estimate_share",
    "flip_signs",
    "majority_at_k",
    "mcnemar_exact",
    "mcnemar_power",
    "pass_at_k",
    "problems_needed",
    "simultaneous_level",
    "sum_clusters",
    "wilson_interval",
]
