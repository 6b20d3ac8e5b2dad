"""What there is to know of each kind of stage: how it is checked and run, and what it leaves.

To add a kind: its settings in ``config`` (and in the union of ``config.recipe``), a module here, an
entry in KINDS.
"""

from __future__ import annotations

from posttrain.runs.kinds.evaluate import EVALUATE
from posttrain.runs.kinds.export import MERGE, QUANTIZE
from posttrain.runs.kinds.harness import HARNESS
from posttrain.runs.kinds.items import GENERATE_ITEMS
from posttrain.runs.kinds.kind import Kind, StageContext
from posttrain.runs.kinds.pairs import PAIRS
from posttrain.runs.kinds.sample_data import SAMPLE_DATA
from posttrain.runs.kinds.training import TRAINING
from posttrain.runs.kinds.vocabulary import EXTEND_TOKENIZER

KINDS: dict[str, Kind] = {
    "sample-data": SAMPLE_DATA,
    "evaluate": EVALUATE,
    "harness": HARNESS,
    "generate-items": GENERATE_ITEMS,
    "pairs": PAIRS,
    **TRAINING,
    "extend-tokenizer": EXTEND_TOKENIZER,
    "merge": MERGE,
    "quantize": QUANTIZE,
}

__all__ = ["KINDS", "Kind", "StageContext"]
