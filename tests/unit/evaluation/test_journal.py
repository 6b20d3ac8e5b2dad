import json

import pytest

from posttrain.config.evaluation import NumberTask
from posttrain.errors import DataError
from posttrain.evaluation.answers import find_seed
from posttrain.evaluation.journal import identify, open_journal, tell_time
from posttrain.files import load_jsonl


def identity(prompts="p", model="m", **settings):
    task = NumberTask(kind="number", data={"path": "x.jsonl"}, **settings)
    return identify(task, prompts, model)


def keep(folder, lines, **changes):
    with open_journal(folder, identity(**changes)) as journal:
        for line in lines:
            journal.add(line)
        return journal.lines


def test_what_was_kept_is_gone_on_with(tmp_path):
    assert keep(tmp_path / "t", [{"id": "1"}]) == []
    assert keep(tmp_path / "t", [{"id": "2"}], batch_size=3) == [{"id": "1"}]
    assert load_jsonl(tmp_path / "t/records.jsonl") == [{"id": "1"}, {"id": "2"}]


@pytest.mark.parametrize("left", [b'{"id": "2"', b'{"id"\n', b"\x00\x00\x00\n"])
def test_a_half_written_last_line_is_cut_off_and_told(tmp_path, left, capsys):
    keep(tmp_path / "t", [{"id": "1"}])
    with (tmp_path / "t/records.jsonl").open("ab") as file:
        file.write(left)
    assert keep(tmp_path / "t", [{"id": "3"}]) == [{"id": "1"}]
    assert "half written" in capsys.readouterr().err
    assert load_jsonl(tmp_path / "t/records.jsonl") == [{"id": "1"}, {"id": "3"}]


def test_damage_in_the_middle_is_an_error_with_its_line(tmp_path):
    keep(tmp_path / "t", [{"id": "1"}, {"id": "2"}])
    path = tmp_path / "t/records.jsonl"
    path.write_text(path.read_text().replace('"1"}', '"1'))
    with pytest.raises(DataError, match=r"records\.jsonl:1: damaged record"):
        keep(tmp_path / "t", [])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "other"}, "another model"),
        ({"prompts": "other"}, "other problems or prompts"),
        ({"temperature": 0.5, "samples": 2}, "other settings (samples, temperature)"),
    ],
)
def test_answers_of_something_else_are_never_mixed_in(tmp_path, change, told, capsys):
    keep(tmp_path / "t", [{"id": "1"}])
    assert keep(tmp_path / "t", [{"id": "2"}], **change) == []
    assert f"holds answers of {told}" in capsys.readouterr().err
    assert load_jsonl(tmp_path / "t.old-1/records.jsonl") == [{"id": "1"}]
    assert load_jsonl(tmp_path / "t/records.jsonl") == [{"id": "2"}]


def test_records_without_a_word_of_what_they_are_of_are_not_gone_on_with(tmp_path, capsys):
    (tmp_path / "t").mkdir()
    (tmp_path / "t/records.jsonl").write_text(json.dumps({"id": "1"}) + "\n")
    assert keep(tmp_path / "t", []) == []
    assert "of an unknown model" in capsys.readouterr().err


def test_every_answer_has_a_seed_of_its_own_that_stays():
    seeds = {find_seed(s, n, k) for s in (0, 1) for n in ("a:1", "a:11", "a:2") for k in (0, 1, 11)}
    assert len(seeds) == 18
    assert find_seed(0, "a:1", 0) == find_seed(0, "a:1", 0) < 2**63


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, ConnectionError])
def test_what_was_added_is_kept_when_the_work_breaks_off(tmp_path, trouble):
    def work():
        with open_journal(tmp_path / "t", identity()) as journal:
            journal.add({"id": "1"})
            raise trouble

    with pytest.raises(trouble):
        work()
    assert load_jsonl(tmp_path / "t/records.jsonl") == [{"id": "1"}]


def test_speed_is_that_of_the_attempt_that_did_the_work(tmp_path):
    assert tell_time(tmp_path, "rate", 6, 2.0, resumed=0) == {"seconds": 2.0, "rate": 3.0}
    again = tell_time(tmp_path, "rate", 6, 2.0, resumed=4)
    assert again == {"seconds": 2.0, "rate": 3.0, "resumed": 4}
    (tmp_path / "results.json").write_text(json.dumps({**again, "other": 1}))
    assert tell_time(tmp_path, "rate", 0, 0.1, resumed=10) == again
