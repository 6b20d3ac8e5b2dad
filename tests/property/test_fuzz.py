"""A short form of bench/fuzz.py: broken rows end as rejects, and nothing else is raised."""

import importlib.util
import sys
from pathlib import Path

from posttrain.data.formats import FORMATS

PLACE = Path(__file__).parents[2] / "bench" / "fuzz.py"


def load_fuzz():
    spec = importlib.util.spec_from_file_location("bench_fuzz", PLACE)
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_mutated_rows_are_records_or_rejects():
    fuzz = load_fuzz()

    outcomes = fuzz.run_fuzz(3000, 20)

    assert set(outcomes) == {*FORMATS, "text"}
    assert sum(found.rows for found in outcomes.values()) == 3750
    # Rows that are all refused would test the first check of each converter and no more.
    assert all(found.records >= 5 and len(found.rejects) >= 1 for found in outcomes.values())


def test_rows_as_they_are_convert_in_their_own_format():
    fuzz = load_fuzz()

    for name, seeds in fuzz.SEEDS.items():
        for row in seeds if name in FORMATS else ():
            assert FORMATS[name].fits(row), name
            FORMATS[name].convert(row)
