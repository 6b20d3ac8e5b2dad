import gzip
import io
import json
import sys
import tarfile
from datetime import date
from decimal import Decimal
from functools import partial

import pytest

from posttrain.data.readers import (
    check_file,
    pick_rows,
    read_documents,
    read_rows,
    scan_batches,
)
from posttrain.errors import DataError, MissingExtraError


def read(path):
    return [(origin.line, row) for origin, row in read_rows(path)]


def mistake_in(path):
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    return str(caught.value)


def test_each_line_is_a_row_with_its_file_and_line(write):
    path = write("rows.jsonl", '{"a": 1}\n\n  {"a": 2}\r\n{"a": 3}')

    assert read(path) == [(1, {"a": 1}), (3, {"a": 2}), (4, {"a": 3})]
    assert str(next(read_rows(path))[0]) == f"{path}:1"


def test_array_items_have_the_line_they_start_on(write):
    path = write("rows.json", '\n[\n  {"a":\n    1},\n\n  {"a": 2}, {"a": 3}\n]\n')

    assert read(path) == [(3, {"a": 1}), (6, {"a": 2}), (6, {"a": 3})]


def test_suffix_does_not_decide_between_array_and_lines(write):
    assert read(write("rows.json", '{"a": 1}\n{"a": 2}\n')) == [(1, {"a": 1}), (2, {"a": 2})]
    assert read(write("rows.jsonl", '[{"a": 1}]')) == [(1, {"a": 1})]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_odd_line_breaks_inside_a_string_are_text(write, character):
    rows = [{"a": f"one{character}two"}, {"a": "three"}]
    lines = "".join(json.dumps(row, ensure_ascii=character < " ") + "\n" for row in rows)

    assert read(write("rows.jsonl", lines)) == [(1, rows[0]), (2, rows[1])]


def test_byte_order_mark_is_skipped(write):
    assert read(write("a.jsonl", b'\xef\xbb\xbf{"a": 1}\n')) == [(1, {"a": 1})]
    assert read(write("b.json", b'\xef\xbb\xbf[{"a": 1}]')) == [(1, {"a": 1})]
    assert read(write("c.csv", b"\xef\xbb\xbfa\n1\n")) == [(2, {"a": "1"})]


def test_broken_line_names_file_and_line(write):
    path = write("rows.jsonl", '{"a": 1}\n{"a": }\n')

    assert mistake_in(path).startswith(f"{path}:2: broken JSON (at column 7")


def test_broken_array_item_names_the_line_of_the_break(write):
    path = write("rows.json", '[\n{"a": 1},\n{"a":\n  oops}\n]')

    assert mistake_in(path).startswith(f"{path}:4: broken JSON (at column 3")


def test_array_cut_short_is_refused(write):
    assert "the JSON array is not closed" in mistake_in(write("rows.json", '[{"a": 1},\n'))


def test_text_after_the_array_is_refused_with_its_line(write):
    path = write("rows.json", '[{"a": 1}]\n\n[{"a": 2}]\n')

    assert mistake_in(path).startswith(f"{path}:3: text after the end of the JSON array")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("9" * 5000, "a number is too long"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("[" * 250 + "]" * 250, "nested too deeply"),
    ],
)
def test_number_or_nesting_beyond_python_is_a_broken_line(write, value, reason):
    path = write("rows.jsonl", f'{{"a": 1}}\n{{"a": {value}}}\n')

    assert mistake_in(path).startswith(f"{path}:2: {reason}")


@pytest.mark.parametrize("row", ["3", '"text"', "null"])
def test_row_that_is_no_object_is_refused_with_its_line(write, row):
    path = write("rows.jsonl", f'{{"a": 1}}\n{row}\n')

    assert mistake_in(path).startswith(f"{path}:2: a row must be an object")


def test_nested_array_item_that_is_no_object_is_refused(write):
    path = write("rows.json", '[\n{"a": 1},\n[2]\n]')

    assert mistake_in(path).startswith(f"{path}:3: a row must be an object")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", ""), ("a.jsonl", "\n \n"), ("a.json", "[]"), ("a.csv", ""), ("a.csv", "x,y\n")],
)
def test_file_without_rows_is_refused(write, name, content):
    path = write(name, content)

    assert mistake_in(path).startswith(f"{path}: no rows")


def test_missing_file_is_refused(tmp_path):
    assert "no such file" in mistake_in(tmp_path / "absent.jsonl")


def test_folder_instead_of_a_file_is_refused(tmp_path):
    assert "cannot be read" in mistake_in(tmp_path)


def test_text_that_is_not_utf8_names_its_line(write):
    path = write("rows.jsonl", b'{"a": 1}\n{"a": "caf\xe9"}\n')

    assert mistake_in(path).startswith(f"{path}:2: not UTF-8 text")


def test_table_fields_may_hold_quotes_commas_and_line_breaks(write):
    path = write("rows.csv", 'q,a\n"say ""hi"", now","one\ntwo"\nplain,\n')

    assert read(path) == [
        (2, {"q": 'say "hi", now', "a": "one\ntwo"}),
        (4, {"q": "plain", "a": ""}),
    ]


def test_blank_table_line_moves_no_line_number(write):
    assert read(write("rows.csv", "a\n1\n\n2\n")) == [(2, {"a": "1"}), (4, {"a": "2"})]


def test_tabs_part_the_fields_of_a_tsv(write):
    assert read(write("rows.tsv", "a\tb\n1,5\t2\n")) == [(2, {"a": "1,5", "b": "2"})]


def test_table_field_longer_than_pythons_limit_is_read(write):
    long = "x" * 200_000

    assert read(write("rows.csv", f"a,b\n{long},1\n")) == [(2, {"a": long, "b": "1"})]


@pytest.mark.parametrize(("row", "count"), [("1", 1), ("1,2,3", 3)])
def test_row_with_another_number_of_fields_is_refused(write, row, count):
    path = write("rows.csv", f"a,b\n1,2\n{row}\n")

    assert mistake_in(path).startswith(
        f"{path}:3: another number of columns (2 columns are named in the header, this row has "
        f"{count})"
    )


def test_two_columns_of_one_name_are_refused(write):
    assert "two columns are named `a`" in mistake_in(write("rows.csv", "a,b,a\n1,2,3\n"))


def test_quote_that_is_never_closed_is_refused(write):
    assert "broken table" in mistake_in(write("rows.csv", 'a\n"1\n2\n'))


def write_parquet(path, rows):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
    return path


def test_parquet_rows_are_numbered_and_plain(tmp_path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    rows = [{"messages": turns, "score": 0.5, "tags": ["a"], "none": None}] * 3
    path = write_parquet(tmp_path / "rows.parquet", rows)

    assert read(path) == [(1, rows[0]), (2, rows[1]), (3, rows[2])]
    assert str(next(read_rows(path))[0]) == f"{path}:1"


def test_parquet_values_that_json_lacks_become_text(tmp_path):
    row = {"day": date(2026, 1, 2), "cost": Decimal("1.50"), "image": b"\x89PNG"}
    path = write_parquet(tmp_path / "rows.parquet", [row])

    assert read(path) == [(1, {"day": "2026-01-02", "cost": "1.50", "image": "<4 bytes>"})]


def test_broken_missing_and_empty_parquet_are_refused(write, tmp_path):
    path = write("rows.parquet", b"PAR1 and no more")
    assert mistake_in(path).startswith(f"{path}: broken Parquet: ")
    assert "no such file" in mistake_in(tmp_path / "absent.parquet")
    parquet = write_parquet(tmp_path / "whole.parquet", [{"a": "x" * 90}] * 9)
    parquet.write_bytes(parquet.read_bytes()[:-200])
    assert "broken Parquet" in mistake_in(parquet)


def test_parquet_without_pyarrow_names_the_extra(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    path = write("rows.parquet", b"")
    for look in (check_file, read):
        with pytest.raises(MissingExtraError, match=r"posttrain\[parquet\]"):
            look(path)


def test_gzipped_text_is_read_as_what_it_holds(write):
    assert read(write("rows.jsonl.gz", gzip.compress(b'{"a": 1}\n\n{"a": 2}'))) == [
        (1, {"a": 1}),
        (3, {"a": 2}),
    ]
    assert read(write("rows.csv.gz", gzip.compress(b"a\n1\n"))) == [(2, {"a": "1"})]


@pytest.mark.parametrize("name", ["rows.tar", "rows.tar.gz", "rows.jsonl.gz", "rows.txt"])
def test_an_archive_of_files_is_refused(tmp_path, write, name):
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        archive.add(write("inner.jsonl", '{"a": 1}\n' * 300), "inner.jsonl")
    packed = gzip.compress(whole.getvalue()) if name.endswith(".gz") else whole.getvalue()
    path = write(name, packed)

    with pytest.raises(DataError, match="is a tar archive"):
        list(read_documents(path, "line") if name.endswith(".txt") else read_rows(path))


def test_broken_gzip_is_refused(write):
    whole = gzip.compress(b'{"a": 1}\n')
    for content in (b'{"a": 1}\n', whole[:12] + b"\xff" * 9):
        path = write("rows.jsonl.gz", content)
        assert "broken gzip" in mistake_in(path)
    path = write("rows.jsonl.gz", whole[:-6])
    assert mistake_in(path).startswith(f"{path}:2: the file is damaged (broken gzip: it is cut")


def test_rows_are_read_once_more_by_their_numbers(write):
    path = write("rows.json", json.dumps([{"n": n} for n in range(700)]))
    batches = partial(scan_batches, path, rows_per_batch=100)

    assert list(pick_rows(batches(), [0, 99, 100, 355, 699])) == [
        {"n": n} for n in (0, 99, 100, 355, 699)
    ]
    assert list(pick_rows(batches(), [])) == []


@pytest.mark.parametrize("now", [['{"n": 0}'], ['{"n": 0}', "broken"]])
def test_rows_that_are_not_there_any_more_are_one_line(write, now):
    path = write("rows.jsonl", "\n".join(now))
    with pytest.raises(DataError, match=r"rows.jsonl has changed while it was read"):
        list(pick_rows(scan_batches(path), [0, 1]))
