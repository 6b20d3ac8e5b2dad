"""Any bytes are read to rows and findings, or refused in one line: no crash, no row lost."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.hostile_files import WHOLE, check_reading, count_lines, mutate

pytest.importorskip("pyarrow")
CONTENTS = {name: make() for name, make in WHOLE.items()}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_has_all_its_rows_and_no_finding(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(CONTENTS[name])

    assert check_reading(path) == (12, 0)


@settings(max_examples=2000, deadline=None, derandomize=True, database=None)
@given(name=st.sampled_from(sorted(WHOLE)), seed=st.integers(0, 2**32))
def test_a_broken_file_gives_rows_and_findings(tmp_path_factory, name, seed):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(mutate(CONTENTS[name], random.Random(seed)))

    check_reading(path)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(content=st.binary(max_size=300), name=st.sampled_from(sorted(WHOLE)))
def test_any_bytes_are_rows_and_findings_or_refused(tmp_path_factory, name, content):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)

    check_reading(path)


def test_the_count_of_lines_is_compared_where_it_can_be(tmp_path):
    counted = 0
    for seed in range(200):
        counted += count_lines(mutate(CONTENTS["lines.jsonl"], random.Random(seed))) > 0

    assert counted > 100
