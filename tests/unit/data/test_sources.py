import gzip
import json
import pickle

import pytest
from pydantic import ValidationError

from posttrain.config.data import SourceConfig, TextDataConfig
from posttrain.data.expansion import check_source, expand_source
from posttrain.data.readers import scan_batches
from posttrain.data.sources import (
    build_converter,
    choose_source_format,
    open_rows,
    read_source,
    read_texts,
    scan_source,
)
from posttrain.errors import DataError

ROWS = [{"instruction": f"q{n}", "output": f"a{n}"} for n in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def names(source):
    return [str(file.path.relative_to(source.path)) for file in expand_source(source)]


def texts(rows):
    return [record.content.messages[-1]["content"] for record in rows.records]


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b.jsonl", "a.json", "deep/er/c.csv", "deep/d.jsonl.gz", ".hidden.jsonl", ".git/x.jsonl",
        "README.md", "notes.txt", "e.jsonl.lock", "dataset_info.json", "state.json", "x.bin",
    ):  # fmt: skip
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(LINES.encode()) if name.endswith(".gz") else LINES.encode())
    (tmp_path / "data" / "deep/er/c.csv").write_text("instruction,output\nq,from csv\n")
    return tmp_path / "data"


def test_folder_is_all_its_files_of_rows_in_order(folder, capsys):
    source = SourceConfig(path=folder, limit=2, weight=0.5)

    assert names(source) == ["a.json", "b.jsonl", "deep/d.jsonl.gz", "deep/er/c.csv"]
    assert {(file.limit, file.weight) for file in expand_source(source)} == {(2, 0.5)}
    said = capsys.readouterr().err
    assert said.count("4 files; left out: README.md") == 1
    assert "e.jsonl.lock, notes.txt, state.json, ..." in said
    assert "hidden" not in said


def test_findings_are_no_rows_of_a_folder_or_a_pattern(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(LINES)
    findings = tmp_path / "a.jsonl.rejects.jsonl"
    findings.write_text('{"file": "a", "line": 1, "reason": "r", "detail": "", "row": null}\n')

    for path in (tmp_path, tmp_path / "*.jsonl"):
        assert [f.path for f in expand_source(SourceConfig(path=path))] == [tmp_path / "a.jsonl"]
    assert capsys.readouterr().err.count("left out: a.jsonl.rejects.jsonl") == 1
    named = SourceConfig(path=findings)
    assert expand_source(named) == [named]
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(DataError, match="no file of rows in it") as caught:
        expand_source(SourceConfig(path=tmp_path))
    assert "are findings" in caught.value.hint


def test_folder_is_read_as_one_source(folder):
    rows = read_source(SourceConfig(path=folder))

    assert texts(rows) == ["a0", "a1", "a2"] * 3 + ["from csv"]
    assert rows.report["rows"] == 10
    assert rows.report["evidence"].startswith("4 files; ")
    assert [row["output"] for _, row in open_rows(SourceConfig(path=folder))] == texts(rows)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("*.jsonl", ["b.jsonl"]), ("**/*.csv", ["deep/er/c.csv"]),
     ("*", ["a.json", "b.jsonl"]), ("[ab].json*", ["a.json", "b.jsonl"])],
)  # fmt: skip
def test_pattern_is_the_files_that_fit(folder, pattern, found):
    files = expand_source(SourceConfig(path=folder / pattern))

    assert [str(file.path.relative_to(folder)) for file in files] == found


def test_pattern_that_fits_nothing_is_refused(folder):
    with pytest.raises(DataError, match="no file has such a name"):
        expand_source(SourceConfig(path=folder / "*.parquet"))


def test_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    path = tmp_path / "rows[1].jsonl"
    path.write_text(LINES)

    assert [file.path for file in expand_source(SourceConfig(path=path))] == [path]


def test_folder_of_text_has_its_documents_but_no_readme(tmp_path):
    for name in ("one.txt", "two.md", "README.md", "LICENSE.txt"):
        (tmp_path / name).write_text(f"{name}\n\nmore")
    source = SourceConfig(path=tmp_path)

    assert names(source) == ["one.txt", "two.md"]
    found = read_texts(source, TextDataConfig(sources=(source,)))
    assert [r.content.text for r in found.records] == ["one.txt", "more", "two.md", "more"]


def test_folder_without_rows_is_refused(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"")

    with pytest.raises(DataError, match=r"no file of rows in it; looked for \.jsonl"):
        expand_source(SourceConfig(path=tmp_path))


def test_saved_data_set_is_a_folder_of_arrow_files(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))

    rows = read_source(SourceConfig(path=tmp_path / "saved"))
    assert texts(rows) == ["a0", "a1", "a2"]
    assert rows.report["format"] == "alpaca"


def test_missing_files_are_found_before_reading(folder):
    assert len(check_source(SourceConfig(path=folder))) == 4
    with pytest.raises(DataError, match="no such file"):
        check_source(SourceConfig(path=folder / "absent.jsonl"))


def test_broken_rows_are_rejects_and_stop_those_who_leave_nothing_out(write):
    source = SourceConfig(path=write("rows.jsonl", LINES + '{"instruction": \n{"output": "x"}\n'))
    rows = read_source(source)

    assert texts(rows) == ["a0", "a1", "a2"]
    assert [(r.origin.line, r.reason) for r in rows.rejects] == [
        (4, "broken JSON"), (5, "no `instruction`"),
    ]  # fmt: skip
    assert rows.rejects[0].to_json()["row"] == '{"instruction": '
    with pytest.raises(DataError, match=r"rows\.jsonl:4: broken JSON"):
        list(open_rows(source))


def test_format_is_found_behind_broken_rows(write):
    source = SourceConfig(path=write("rows.jsonl", "x\n" * 60 + LINES))

    assert choose_source_format(source, "chat")[0] == "alpaca"
    assert len(read_source(source).rejects) == 60


def test_file_of_broken_rows_is_refused_with_the_first(write):
    source = SourceConfig(path=write("rows.jsonl", "x\n" * 60))

    with pytest.raises(DataError, match=r"rows\.jsonl:1: broken JSON"):
        read_source(source)
    assert len(read_source(source.model_copy(update={"format": "alpaca"})).rejects) == 60


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"])
def test_columns_have_other_names_in_every_kind_of_file(write, tmp_path, name):
    rows = [{"ask": "q", "reply": "a"}, {"ask": "r", "reply": "b"}]
    if name == "rows.csv":
        write(name, "ask,reply\nq,a\nr,b\n")
    elif name == "rows.parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
    else:
        write(name, json.dumps(rows) if name == "rows.json" else rows)
    columns = {"instruction": "ask", "output": "reply"}
    found = read_source(SourceConfig(path=tmp_path / name, columns=columns))

    assert texts(found) == ["a", "b"]
    assert found.report["format"] == "alpaca"


def test_column_that_a_row_lacks_is_its_own_finding(write):
    rows = [{"ask": "q", "output": "a", "more": "m"}, {"output": "b"}, {"ask": "r", "output": "c"}]
    columns = {"instruction": "ask", "input": "more"}
    source = SourceConfig(path=write("rows.jsonl", rows), columns=columns)
    found = read_source(source)

    # Alpaca rows may do without `input`, not without `instruction`.
    assert [m.content.messages[0]["content"] for m in found.records] == ["q\nm", "r"]
    (reject,) = found.rejects
    assert (reject.origin.line, reject.reason) == (2, "no column `ask`")
    assert reject.detail == "the row has: output"
    assert reject.row == {"output": "b"}
    with pytest.raises(DataError, match=r"rows\.jsonl:2: no column `ask`"):
        list(open_rows(source))


def test_column_that_no_row_has_is_refused(write):
    path = write("rows.jsonl", ROWS)

    for columns in ({"instruction": "ask"}, {"input": "more"}):
        with pytest.raises(DataError, match=r"rows\.jsonl:1: no column `(ask|more)`"):
            read_source(SourceConfig(path=path, columns=columns))


def test_empty_column_name_leaves_a_field_out(write):
    path = write("rows.jsonl", [{"instruction": "q", "input": "metadata", "output": "a"}])
    found = read_source(SourceConfig(path=path, columns={"input": ""}))

    assert found.records[0].content.messages[0]["content"] == "q"


def test_turns_have_other_keys_and_roles(write):
    said = [("customer", "q"), ("agent", "a"), ("customer", "r"), ("agent", "b")]
    rows = [{"talk": [{"who": who, "words": words} for who, words in said]}]
    source = SourceConfig(
        path=write("rows.jsonl", rows),
        columns={"conversations": "talk"},
        turns={"role": "who", "content": "words", "user": "customer", "assistant": "agent"},
    )
    found = read_source(source)

    assert [(m["role"], m["content"]) for m in found.records[0].content.messages] == [
        ("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b"),
    ]  # fmt: skip


def test_converter_and_batches_go_to_other_processes(write):
    source = SourceConfig(path=write("rows.csv", "a,b\nq,x\nr,y\ns,z\n"), limit=2,
                          columns={"instruction": "a", "output": "b"})  # fmt: skip
    convert = pickle.loads(pickle.dumps(build_converter(source, "alpaca")))
    batches = pickle.loads(pickle.dumps(list(scan_source(source, rows_per_batch=1))))

    rows = [row for batch in batches for _, row in batch.rows()]
    assert [convert(row).messages[-1]["content"] for row in rows] == ["x", "y"]


def test_dataset_needs_a_path():
    with pytest.raises(ValidationError, match="give that as `path`"):
        SourceConfig(from_stage="x", dataset="y")


def test_real_folders_and_patterns_are_sources(shared_data):
    assert read_source(SourceConfig(path=shared_data / "gsm8k")).report["rows"] == 8792
    files = expand_source(SourceConfig(path=shared_data / "math/*.jsonl"))
    assert sum(len(batch) for file in files for batch in scan_batches(file.path)) == 13_000
