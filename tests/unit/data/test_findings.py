"""What cannot be read becomes a finding with place and reason; the rows around it stay."""

import gzip
import json
import pickle
import tracemalloc

import pytest

from posttrain.data.readers import arrays, blocks, scan_batches, scan_rows, scan_texts
from posttrain.data.readers.parse import parse_row
from posttrain.data.records import RowError
from posttrain.errors import DataError

OPEN = "the JSON array is not closed"


def outline(pairs):
    return [
        (origin.line, row.reason if isinstance(row, RowError) else row) for origin, row in pairs
    ]


def read(path):
    return outline(scan_rows(path))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": }', "broken JSON"),
        (b'{"a": 1} {"b": 2}', "broken JSON"),
        (b'{"a": 1', "broken JSON"),
        (b'{"a": "tab\there"}', "broken JSON"),
        (b'{"a": 1, "a": 2}', "a key is there twice"),
        (b'{"a": [{"b": {"c": 1, "d": 2, "c": 1}}]}', "a key is there twice"),
        (b'{"a": 1, "\\u0061": 2}', "a key is there twice"),
        (b'{"a": NaN}', "NaN or Infinity"),
        (b'{"a": [-Infinity]}', "NaN or Infinity"),
        (b'{"a": 1e999}', "NaN or Infinity"),
        (b'{"a": "x\\u0000y"}', "a NUL character"),
        (b'{"a": "x\0y"}', "a NUL character"),
        (b"\0\0\0\0", "a NUL character"),
        (b'{"\\u0000": 1}', "a NUL character"),
        (b'{"a": "\\ud83d alone"}', "a text is not valid Unicode"),
        (b'{"\\uDE00": 1}', "a text is not valid Unicode"),
        (b'{"a": "caf\xe9"}', "not UTF-8 text"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8 text"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number is too long"),
        (b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", "nested too deeply"),
        (b'{"a": ' * 9000 + b"1" + b"}" * 9000, "nested too deeply"),
        (b"[1, 2]", "a row must be an object"),
        (b"null", "a row must be an object"),
    ],
)
def test_broken_line_is_a_finding_and_its_neighbours_are_rows(write, line, reason):
    path = write("rows.jsonl", b'{"n": 1}\n' + line + b'\n{"n": 2}\n')

    assert read(path) == [(1, {"n": 1}), (2, reason), (3, {"n": 2})]
    (finding,) = [row for _, row in scan_rows(path) if isinstance(row, RowError)]
    assert len(finding.row) <= 2000
    assert finding.row.startswith(line[:5].decode(errors="replace"))


@pytest.mark.parametrize(
    "line",
    [
        '{"a": "\\\\u0000 and \\\\ud800 as letters"}',
        '{"a": "\\ud83d\\ude00 is a pair"}',
        '{"a": {"b": 1}, "b": {"a": 1}}',
        '{"a": [[[[[[[[[[1]]]]]]]]]], "b": "[[[[{{{{"}',
        '{"a": "' + "[{" * 300 + '"}',
        '{"a": ' + "[" * 150 + "]" * 150 + "}",
        '{"a": ' + "[[1]," * 198 + "1" + "]" * 198 + "}",
        ' \t{"a": 1.5e300}\r',
    ],
)
def test_what_only_looks_broken_is_a_row(line):
    assert parse_row(line.encode()) == json.loads(line)


def test_batches_are_pieces_that_another_process_can_read(write):
    path = write("rows.jsonl", "".join(f'{{"n": {n}}}\n\n' for n in range(10)) + "{\n")
    batches = [pickle.loads(pickle.dumps(b)) for b in scan_batches(path, rows_per_batch=4)]

    assert [len(batch) for batch in batches] == [4, 4, 3]
    rows = outline(row for batch in batches for row in batch.rows())
    assert rows == [*((2 * n + 1, {"n": n}) for n in range(10)), (21, "broken JSON")]
    assert all(type(item) is bytes for batch in batches for item in batch.items)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"])
def test_limit_counts_rows_over_batches(write, tmp_path, name):
    rows = [{"n": str(n)} for n in range(20)]
    if name == "rows.parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
    elif name == "rows.csv":
        write(name, "n\n" + "".join(f"{n}\n" for n in range(20)))
    else:
        write(name, json.dumps(rows) if name == "rows.json" else rows)
    batches = list(scan_batches(tmp_path / name, rows_per_batch=3, limit=7))

    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert [row["n"] for batch in batches for _, row in batch.rows()] == list("0123456")


def test_lines_beyond_the_limit_are_skipped_and_never_held(tmp_path):
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(b'{"n": 1}\n{"a": "')
        for _ in range(80):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n{"n": 2}\n')
    tracemalloc.start()
    rows = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert rows == [(1, {"n": 1}), (2, "row too large"), (3, {"n": 2})]
    assert peak < 1.2 * (64 << 20)


def test_a_line_of_fifty_megabytes_is_a_row(write):
    path = write("rows.jsonl", b'{"a": "' + b"x" * (50 << 20) + b'"}\n{"n": 2}\n')
    rows = read(path)

    assert len(rows[0][1]["a"]) == 50 << 20
    assert rows[1] == (2, {"n": 2})


def test_number_lines_is_the_same_however_the_bytes_are_cut():
    data = b"one\n\ntwo is longer\nthree\n" + b"x" * 40 + b"\nlast"
    wanted = list(blocks.number_lines([data], largest=20))
    for size in range(1, 30):
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        found = list(blocks.number_lines(pieces, largest=20))
        assert [(n, x if isinstance(x, bytes) else x.reason) for n, x in found] == [
            (n, x if isinstance(x, bytes) else x.reason) for n, x in wanted
        ]
    assert [n for n, _ in wanted] == [1, 2, 3, 4, 5, 6]
    assert wanted[4][1].reason == "row too large"


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('[{"n": 1}, {"n": }, {"n": 3}]', [{"n": 1}, "broken JSON", {"n": 3}]),
        ('[{"n": 1}, {"a": [1, 2}, {"n": 3}]', [{"n": 1}, "broken JSON", OPEN]),
        ('[{"n": 1}, {"a": "x\ny"}, {"n": 3}]', [{"n": 1}, "broken JSON", {"n": 3}]),
        ('[\n{"n": 1},\n{"a": "x},\n {"n": 3}\n]', [{"n": 1}, "broken JSON", OPEN]),
        ('[{"n": 1},\n{"a": "x,\n "b": 2},\n{"n": 3}]', [{"n": 1}, "broken JSON", {"n": 3}]),
        ('[{"n": 1}, {"a": 1}}, {"n": 3}]', [{"n": 1}, {"a": 1}, "broken JSON", {"n": 3}]),
        ('[{"n": 1}, oops, {"n": 3}]', [{"n": 1}, "broken JSON", {"n": 3}]),
        ('[{"n": 1}, 7, {"n": 3}]', [{"n": 1}, "a row must be an object", {"n": 3}]),
        ('[{"n": 1}, {"a": 1, "a": 2}, {"n": 3}]', [{"n": 1}, "a key is there twice", {"n": 3}]),
        ('[{"n": 1}, {"n": 2}', [{"n": 1}, {"n": 2}, OPEN]),
        ('[{"n": 1}, {"n": 2, "a": [', [{"n": 1}, OPEN]),
        ('[{"n": 1}] more [1]', [{"n": 1}, "text after the end of the JSON array"]),
        (
            '[{"n": 1}, {"a": ' + "[" * 5000 + "]" * 5000 + '}, {"n": 3}]',
            [{"n": 1}, "nested too deeply", {"n": 3}],
        ),
    ],
)
def test_broken_item_of_an_array_is_one_finding(write, text, rows):
    assert [row for _, row in read(write("rows.json", text))] == rows


def test_bytes_of_an_array_that_are_no_utf8_are_the_items_own(write):
    path = write("rows.json", b'[{"n": 1},\n{"a": "caf\xe9"},\n{"n": 3}]')

    assert read(path) == [(1, {"n": 1}), (2, "not UTF-8 text"), (3, {"n": 3})]


def test_array_items_are_found_across_blocks(write, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 7)
    monkeypatch.setattr(arrays, "_MUCH", 11)
    rows = [{"n": n, "text": 'a "quote" \\ and { [ 你好 😀' * (n % 3)} for n in range(30)]
    path = write("rows.json", json.dumps(rows, indent=1, ensure_ascii=False))

    assert [row for _, row in read(path)] == rows
    broken = write("broken.json", path.read_text().replace('"n": 17,', '"n": 17', 1))
    assert [row for _, row in read(broken)] == [*rows[:17], "broken JSON", *rows[18:]]


def test_array_items_beyond_the_limit_are_skipped(write, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 64)
    monkeypatch.setattr(arrays, "_MUCH", 64)
    long = json.dumps({"a": 'x"]} \\' * 1000}).encode()
    path = write("rows.json", b'[{"n": 1},\n' + long + b',\n{"n": 3}]')

    text = arrays.JsonText(blocks.read_blocks(path))
    assert text.peek() == "["
    text.move(1)
    found = list(arrays.scan_array(text, largest=1000))
    assert [line for line, _ in found] == [1, 2, 3]
    assert found[1][1].reason == "row too large"
    assert [found[0][1], found[2][1]] == [b'{"n": 1}', b'{"n": 3}']
    assert len(text.text) < 3000


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        ("a.json", '{"x": {"q": "1", "n": 1}, "y": {"q": "2", "n": 2}}',
         [{"id": "x", "q": "1", "n": 1}, {"id": "y", "q": "2", "n": 2}]),
        ("a.json", '{\n"x": {"id": 7, "q": "1"},\n"y": {"id": 8, "q": "2"}\n}',
         [{"id": 7, "q": "1"}, {"id": 8, "q": "2"}]),
        ("a.json", '{"q": ["1", "2"], "n": [1, null]}',
         [{"q": "1", "n": 1}, {"q": "2", "n": None}]),
        ("a.json", '{"q": ["1"], "n": [NaN]}', ["NaN or Infinity"]),
        ("a.json", '{"q": {"0": "1", "1": "2"}, "n": {"0": 1, "1": 2}}',
         [{"q": "1", "n": 1}, {"q": "2", "n": 2}]),
        ("a.json", '{"version": "1", "data": [{"n": 1}, {"n": 2}]}', [{"n": 1}, {"n": 2}]),
        ("a.json", '{"data": [\n{"n": 1},\n{"n": 2},\n{"n"', [{"n": 1}, {"n": 2},
         OPEN]),
        ("a.json", '{"data": [{"n": 1}, {"n": }, {"n": 3}]}', [{"n": 1}, "broken JSON", {"n": 3}]),
        ("a.json", '{"messages": [{"role": "user"}], "n": 1}',
         [{"messages": [{"role": "user"}], "n": 1}]),
        ("a.json", '{\n"stem": "?",\n"options": [{"key": "A"}]\n}',
         [{"stem": "?", "options": [{"key": "A"}]}]),
        ("a.jsonl", '{"data": [{"n": 1}]}', [{"data": [{"n": 1}]}]),
        ("a.json", '{"n": 1}\n{"n": 2}\n', [{"n": 1}, {"n": 2}]),
        ("a.jsonl", '{"n": 1,\n{"n": 2}\n', ["broken JSON", {"n": 2}]),
        ("a.json", '{\n"n": 1\n}\n{\n"n": 2\n}\n', [{"n": 1}, {"n": 2}]),
        ("a.json", '{\n"n": 1\n}\n{\n"n": }\n{\n"n": 3\n}\n', [{"n": 1}, "broken JSON", {"n": 3}]),
        ("a.json", '{\n"x": {"q": "1"},\n"y": {"q": "2"},\n"x": {"q": "3"}}',
         [{"id": "x", "q": "1"}, {"id": "y", "q": "2"}, "a key is there twice"]),
        ("a.json", '{\n"x": {"q": "1"},\n"y": {"q": "2"},\n"z": {"q": ',
         [{"id": "x", "q": "1"}, {"id": "y", "q": "2"}, "broken JSON"]),
    ],
)  # fmt: skip
def test_object_around_all_rows(write, name, text, rows):
    assert [row for _, row in read(write(name, text))] == rows


def test_rows_inside_of_an_object_have_their_lines(write):
    path = write("a.json", '{\n"version": 1,\n"data": [\n{"n": 1},\n\n{"n": 2}]\n}')

    assert read(path) == [(4, {"n": 1}), (6, {"n": 2})]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_files_with_a_byte_order_mark_are_decoded(write, name, encoding):
    text = {"a.jsonl": '{"a": "é😀"}\n', "a.json": '[{"a": "é😀"}]', "a.csv": "a\né😀\n"}[name]
    mark = "\ufeff" if encoding.endswith("-be") else ""
    path = write(name, (mark + text).encode(encoding))

    assert [row for _, row in read(path)] == [{"a": "é😀"}]


def test_half_characters_of_utf16_are_findings(write):
    text = '\ufeff{"n": 1}\n{"a": "\ud800"}\n{"n": 3}\n'
    path = write("a.jsonl", text.encode("utf-16-le", "surrogatepass") + b"{")

    assert [row for _, row in read(path)] == [
        {"n": 1}, "not UTF-8 text", {"n": 3}, "the file is damaged",
    ]  # fmt: skip


def test_byte_order_mark_inside_of_a_file_is_skipped(write):
    path = write("a.jsonl", b'{"n": 1}\n\xef\xbb\xbf{"n": 2}\n')

    assert read(path) == [(1, {"n": 1}), (2, {"n": 2})]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"a,b\n1,2\n3\n4,5,6\n7,8\n", [(2, "1"), (3, "another number of columns"),
                                      (4, "another number of columns"), (5, "7")]),
        (b"a,b\n1,\xff\n3,4\n", [(2, "not UTF-8 text"), (3, "3")]),
        (b'a,b\n1,"x\n\0y"\n3,4\n', [(2, "a NUL character"), (4, "3")]),
        (b'a,b\n"1"x,2\n3,4\n', [(2, "broken table"), (3, "3")]),
        (b'a,b\n1,2\n"3,4\n5,6\n', [(2, "1"), (3, "broken table")]),
        (b"a;b\n1,5;2\n", [(2, "1,5")]),
        (b"sep=;\r\na;b\r\n1,5;2\r\n", [(3, "1,5")]),
        (b"a,b;c\n1,2\n", [(2, "1")]),
        (b"a,b\r1,2\r3,4", [(2, "1"), (3, "3")]),
    ],
)  # fmt: skip
def test_tables_row_by_row(write, content, rows):
    found = read(write("a.csv", content))

    assert [(line, row if isinstance(row, str) else row["a"]) for line, row in found] == rows


@pytest.mark.parametrize("content", ["问题,答案\n一,二\n".encode("gbk"), b'a,"b\n1,2\n'])
def test_header_that_cannot_be_read_is_refused(write, content):
    path = write("a.csv", content)

    with pytest.raises(DataError, match=rf"{path}:1: the header cannot be read"):
        read(path)


@pytest.mark.parametrize("packing", ["gz", "zst"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"n": "%d"}\n'),
        ("a.csv", "%d\n"),
        ("a.json", ',{"n": "%d"}'),
        ("a.txt", "%d\n\n"),
    ],
)
def test_packed_files_cut_short_keep_the_rows_before_the_cut(write, name, text, packing):
    zstandard = pytest.importorskip("zstandard")
    whole = "".join(text % n for n in range(20_000))
    whole = {"a.csv": "n\n" + whole, "a.json": f"[{whole[1:]}]"}.get(name, whole)
    pack = gzip.compress if packing == "gz" else zstandard.compress
    parts = [whole[start : start + 7_000].encode() for start in range(0, len(whole), 7_000)]
    packed = b"".join(map(pack, parts))
    for content, broken in (
        (packed, False),
        (packed * 2, False),
        (packed[: len(packed) // 2], True),
    ):
        if name in ("a.json", "a.csv") and len(content) > len(packed):
            continue  # two of them in a row are no array, and no table
        path = write(f"{name}.{packing}", content)
        pairs = (
            (pair for batch in scan_texts(path, "paragraph") for pair in batch.rows())
            if name == "a.txt"
            else scan_rows(path)
        )
        rows = [row for _, row in outline(pairs)]
        kept = rows[:-1] if broken else rows
        field = "text" if name == "a.txt" else "n"
        numbers = [int(row[field]) for row in kept]
        assert numbers == [n % 20_000 for n in range(len(kept))]
        assert (rows[-1] == "the file is damaged") == broken
        assert len(kept) > 500 if broken else len(kept) in (20_000, 40_000)


def test_packed_files_are_known_by_their_bytes(write):
    assert read(write("a.jsonl", gzip.compress(b'{"n": 1}\n'))) == [(1, {"n": 1})]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PK\x03\x04....", "a zip archive"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (bytes(range(256)) * 40, "no text"),
        (b"\0" * 5000, "no text"),
    ],
)
def test_what_is_no_text_is_refused_with_one_line(write, content, what):
    for name in ("a.jsonl", "a.csv", "a.json"):
        with pytest.raises(DataError, match=what) as caught:
            read(write(name, content))
        assert "\n" not in str(caught.value)


def test_a_pointer_instead_of_a_text_is_no_document(write):
    path = write("a.txt", "version https://git-lfs.github.com/spec/v1\n")

    with pytest.raises(DataError, match="git lfs pull"):
        list(scan_texts(path, "line"))


def test_a_file_may_begin_with_a_broken_line(write):
    path = write("a.jsonl", b"\0" * 5000 + b'\n{"number": 1}\n')

    assert read(path) == [(1, "a NUL character"), (2, {"number": 1})]


@pytest.mark.parametrize(
    ("unit", "documents"),
    [
        ("line", [(1, "one"), (2, "two\x85"), (3, "three"), (5, "four"), (8, "five")]),
        ("paragraph", [(1, "one\ntwo\x85three"), (5, "four"), (8, "five")]),
        ("file", [(1, "one\ntwo\x85three\n \nfour\n\n\r\nfive")]),
    ],
)
def test_documents_of_a_text_file(write, unit, documents):
    path = write("a.txt", "one\ntwo\x85three\n \nfour\n\n\r\nfive")
    found = [pair for batch in scan_texts(path, unit) for pair in batch.rows()]

    wanted = [(line, text if unit == "file" else text.rstrip("\r\n")) for line, text in documents]
    assert [(origin.line, row["text"]) for origin, row in found] == wanted


def test_document_that_is_no_text_is_a_finding(write):
    path = write("a.txt", b"one\n\nca\xe9\n\n\0\n\nfour")
    found = outline(pair for batch in scan_texts(path, "paragraph") for pair in batch.rows())

    assert found == [
        (1, {"text": "one"}), (3, "not UTF-8 text"), (5, "a NUL character"), (7, {"text": "four"}),
    ]  # fmt: skip


def write_arrow(path, rows, form, **options):
    pyarrow = pytest.importorskip("pyarrow")
    table = rows if isinstance(rows, pyarrow.Table) else pyarrow.Table.from_pylist(rows)
    make = pyarrow.ipc.new_file if form == "file" else pyarrow.ipc.new_stream
    with pyarrow.OSFile(str(path), "wb") as sink, make(sink, table.schema, **options) as stream:
        stream.write_table(table, max_chunksize=100)
    return path


@pytest.mark.parametrize("form", ["file", "stream"])
@pytest.mark.parametrize("name", ["a.arrow", "a.feather", "a"])
def test_arrow_files_and_streams(tmp_path, form, name):
    if name == "a" and form == "stream":
        return  # a stream has no magic: its name must say what it is
    rows = [{"messages": [{"role": "user", "content": str(n)}], "n": n} for n in range(250)]
    path = write_arrow(tmp_path / name, rows, form)

    assert read(path) == list(enumerate(rows, start=1))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    cut = read(path)
    assert cut[:100] == list(enumerate(rows[:100], start=1))
    assert cut[-1] == (len(cut), "the file is damaged")


def test_arrow_text_that_is_no_utf8_is_its_rows_finding(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    column = pyarrow.array([b"one", b"\xff", b"three", b"x\0"]).view(pyarrow.utf8())
    path = write_arrow(tmp_path / "a.arrow", pyarrow.table({"a": column}), "stream")

    assert read(path) == [
        (1, {"a": "one"}), (2, "not UTF-8 text"), (3, {"a": "three"}), (4, "a NUL character"),
    ]  # fmt: skip


def test_date_that_python_cannot_hold_is_its_rows_finding(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    days = pyarrow.array([1, 10**8, 2], pyarrow.int32()).view(pyarrow.date32())
    path = write_arrow(tmp_path / "a.arrow", pyarrow.table({"a": days}), "file")

    assert read(path) == [(1, {"a": "1970-01-02"}), (2, "a broken row"), (3, {"a": "1970-01-03"})]


def test_parquet_damaged_inside_keeps_the_rows_before(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [{"a": f"{n} " * 50} for n in range(2000)]
    path = tmp_path / "a.parquet"
    parquet.write_table(
        pyarrow.Table.from_pylist(rows), path, row_group_size=500, use_dictionary=False
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 500] = b"\xff" * 500
    path.write_bytes(content)
    found = read(path)

    assert found[-1][1] == "the file is damaged"
    assert [row for _, row in found[:-1]] == rows[: len(found) - 1]
    assert len(found) > 250


def test_two_columns_of_one_name_are_refused_in_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    table = pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], ["a", "a"])
    parquet.write_table(table, tmp_path / "a.parquet")

    with pytest.raises(DataError, match="two columns are named `a`"):
        read(tmp_path / "a.parquet")


def test_file_of_findings_only_is_no_error(write):
    assert [row for _, row in read(write("a.jsonl", '{"a"\n{"b"\n'))] == ["broken JSON"] * 2
