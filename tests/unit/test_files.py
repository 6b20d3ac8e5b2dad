import json
import os
import stat

import pytest

from posttrain.errors import PosttrainError
from posttrain.files import (
    cache_root,
    digest_file,
    digest_json,
    list_current,
    load_json,
    load_jsonl,
    publish_folder,
    replace_link,
    write_json,
    write_jsonl,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_written_text_replaces_the_old_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "one")
    write_text(path, "zwei – 二")

    assert path.read_text(encoding="utf-8") == "zwei – 二"
    assert names(path.parent) == ["a.txt"]


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud83d")

    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_written_file_is_readable_as_umask_says(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(old)

    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_place_that_is_no_folder_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(PosttrainError, match=r"cannot write .*; choose another place"):
        write_text(tmp_path / "file" / "a.txt", "x")


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x1c", "\ud83d"])
def test_lines_with_odd_characters_come_back(tmp_path, character):
    rows = [{"a": f"one{character}two"}, ["three"], {}]
    write_jsonl(tmp_path / "a.jsonl", rows)

    assert load_jsonl(tmp_path / "a.jsonl") == rows


def test_unfinished_last_line_is_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n{"a": ')

    assert load_jsonl(tmp_path / "a.jsonl") == [{"a": 1}, {"a": 2}]


def test_paths_become_strings_in_json(tmp_path):
    write_json(tmp_path / "a.json", {"p": tmp_path, "t": "é"})

    assert load_json(tmp_path / "a.json") == {"p": str(tmp_path), "t": "é"}
    assert "é" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_folder_appears_whole(tmp_path):
    place = tmp_path / "deep" / "out"
    with publish_folder(place) as building:
        (building / "a").write_text("1")
        assert not place.exists()

    assert (place / "a").read_text() == "1"
    assert names(place.parent) == ["out"]


def test_folder_replaces_the_older_one(tmp_path):
    place = tmp_path / "out"
    for name in ("old", "new"):
        with publish_folder(place) as building:
            (building / name).write_text(name)

    assert names(place) == ["new"]
    assert names(tmp_path) == ["out"]


def test_failed_folder_leaves_the_older_one_and_nothing_else(tmp_path):
    place = tmp_path / "out"
    with publish_folder(place) as building:
        (building / "old").write_text("x")

    def fail():
        with publish_folder(place) as building:
            (building / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert names(place) == ["old"]
    assert names(tmp_path) == ["out"]


def test_link_is_moved_from_one_target_to_another(tmp_path):
    link = tmp_path / "last"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        replace_link(link, name)

    assert link.resolve() == tmp_path / "two"
    assert names(tmp_path) == ["last", "one", "two"]


def test_digest_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")

    assert digest_file(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_digest_of_a_value_forgets_the_order_of_keys_alone():
    assert digest_json({"a": 1, "b": [1, 2]}) == digest_json({"b": [1, 2], "a": 1})
    values = [
        {"a": 1},
        {"a": "1"},
        {"a": [1]},
        {"a": None},
        {},
        {"a": float("nan")},
        {"a": "\ud83d"},
    ]
    assert len({digest_json(value) for value in values}) == len(values)
    assert digest_json(json.loads('{"a": NaN}')) == digest_json({"a": float("nan")})


def test_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"
    monkeypatch.setenv("POSTTRAIN_CACHE", "")
    assert cache_root() == tmp_path / "posttrain"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "home" / ".cache" / "posttrain"


def test_publishing_removes_what_a_killed_writer_of_the_same_folder_left(tmp_path):
    (tmp_path / ".out.k2j4_abc").mkdir()
    (tmp_path / ".other.k2j4_abc").mkdir()
    with publish_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("x")
    assert names(tmp_path) == [".other.k2j4_abc", "out"]


def test_json_holds_half_of_a_surrogate_pair(tmp_path):
    write_json(tmp_path / "a.json", {"text": "half \ud83d", "other": "小明"})
    assert load_json(tmp_path / "a.json") == {"text": "half \ud83d", "other": "小明"}


def test_what_was_set_aside_is_not_listed(tmp_path):
    for name in ("demo", "demo.old-1", ".hidden", "demo.older"):
        (tmp_path / "a.old-2" / name).mkdir(parents=True)
        (tmp_path / "a.old-2" / name / "results.json").touch()
    found = list_current(tmp_path / "a.old-2", "*/results.json")
    assert [path.parent.name for path in found] == ["demo", "demo.older"]
    assert list_current(tmp_path / "absent", "*") == []
