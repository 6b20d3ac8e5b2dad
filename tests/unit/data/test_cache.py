"""A data set is taken from the cache only where it is the very one that would be made."""

import os
import re
import shutil
from functools import partial

import pytest
from transformers import AutoTokenizer

from posttrain.config.data import ChatDataConfig
from posttrain.data import prepare
from posttrain.data.prepare import prepare_data
from posttrain.files import digest_file, load_json, write_json
from posttrain.models.tiny import ensure_tiny
from posttrain.samples import GENERATORS

ROWS = list(GENERATORS["chat"](80, 0))


@pytest.fixture
def job(write, tmp_path, monkeypatch, cache_dir):
    """A tokenizer's folder and a file of rows, to be changed, and an empty cache."""
    tokenizer = tmp_path / "tokenizer"
    shutil.copytree(ensure_tiny("tiny"), tokenizer)
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    return Job(tokenizer, write("rows.jsonl", ROWS), write("eval.jsonl", ROWS[:3]))


class Job:
    """What a data set is made of."""

    def __init__(self, tokenizer, path, problems):
        self.tokenizer, self.path, self.problems = tokenizer, path, problems
        self.settings = {"sources": [{"path": path}], "workers": 1}

    def prepare(self):
        config = ChatDataConfig.model_validate(self.settings)
        return prepare_data(config, AutoTokenizer.from_pretrained(self.tokenizer))


def examples(data):
    return [[part.tolist() for part in data.train.example(i)] for i in range(len(data.train))]


def change_row(job, monkeypatch):
    text = job.path.read_text(encoding="utf-8")
    place = text.index('"content": "', len(text) // 2) + len('"content": "')
    job.path.write_text(text[:place] + "X" + text[place + 1 :], encoding="utf-8")


def change_option(job, monkeypatch):
    job.settings["train_on"] = "everything"


def change_template(job, monkeypatch):
    path = job.tokenizer / "chat_template.jinja"
    path.write_text(path.read_text().replace("{{- '\\n' }}", "{{- '\\n\\n' }}"))


def change_tokenizer(job, monkeypatch):
    path = job.tokenizer / "tokenizer.json"
    content = load_json(path)
    content["model"]["merges"] = content["model"]["merges"][:-200]
    write_json(path, content)


def change_version(job, monkeypatch):
    monkeypatch.setattr(prepare, "_FORMAT_VERSION", prepare._FORMAT_VERSION + 1)


@pytest.mark.parametrize(
    "change", [change_row, change_option, change_template, change_tokenizer, change_version]
)
def test_a_change_makes_other_data(change, job, monkeypatch):
    before = job.prepare()
    taken = examples(before)
    change(job, monkeypatch)
    after = job.prepare()

    assert not after.reused
    assert after.folder != before.folder
    assert after.digest != before.digest
    # A new version may give the same examples; who raises it knows why.
    assert (examples(after) == taken) == (change is change_version)
    assert examples(before) == taken
    assert job.prepare().reused


def search(job):
    job.settings["contamination"] = {
        "action": "report", "against": [{"path": job.problems}], "keys": [],
    }  # fmt: skip


def test_more_processes_take_what_one_has_made(job):
    made = job.prepare()
    job.settings["workers"] = 3
    again = job.prepare()

    assert again.reused
    assert again.folder == made.folder


def test_a_search_that_only_reports_makes_the_same_examples(job):
    before = job.prepare()
    search(job)
    after = job.prepare()

    assert after.digest == before.digest
    assert examples(after) == examples(before)
    # The search is not left out for the sake of the cache.
    assert not after.reused
    assert after.report["contamination"]["matched_rows"] > 0
    assert before.report["contamination"] is None
    job.settings["contamination"]["action"] = "drop"
    assert job.prepare().digest != before.digest


def test_a_changed_evaluation_set_is_searched_for_anew(job):
    search(job)
    before = job.prepare()
    job.problems.write_text("".join(job.problems.read_text().splitlines(keepends=True)[:1]))
    after = job.prepare()

    assert after.digest == before.digest
    matched = [d.report["contamination"]["matched_rows"] for d in (before, after)]
    assert matched[0] > matched[1] > 0


def test_any_number_of_processes_writes_the_same_bytes(job, write, tmp_path, monkeypatch):
    write("rows.jsonl", GENERATORS["math"](1500, 0))  # Several batches for each process.
    job.settings |= {"split": {"validation": 0.2, "test": 0.1}, "dedup": {"method": "near"}}
    search(job)
    written = []
    for count in (1, 2, 5):
        monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / f"cache-{count}"))
        job.settings["workers"] = count
        data = job.prepare()
        assert not data.reused
        files = [path for path in sorted(data.folder.rglob("*")) if path.is_file()]
        written.append({str(f.relative_to(data.folder)): digest_file(f) for f in files})

    assert "train/token_ids.npy" in written[0]
    assert written[0] == written[1] == written[2]


def shorten(path):
    os.truncate(path, path.stat().st_size - 1)


def garble(path):
    path.write_text("{")


def remove(path):
    path.unlink()


def flip(path, place=-1):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("train/token_ids.npy", shorten),
        ("train/token_ids.npy", flip),
        ("train/weights.npy", partial(flip, place=100)),  # the header
        ("train/weights.npy", remove),
        ("validation/lengths.npy", remove),
        ("train/files.json", shorten),
        ("rejects.jsonl", remove),
        ("report.json", garble),
        ("report.json", remove),
    ],
)
def test_a_damaged_data_set_is_said_and_made_anew(name, damage, job, capsys):
    job.settings["split"] = {"validation": 0.2}
    made = job.prepare()
    taken, path = examples(made), made.folder / name
    whole = path.read_bytes()
    damage(path)
    capsys.readouterr()
    again = job.prepare()

    assert re.search("is damaged .* and is made anew", capsys.readouterr().err)
    assert not again.reused
    assert path.read_bytes() == whole
    assert examples(again) == taken
    # Who has mapped the old one may go on with it, unless its file was changed in place.
    if damage in (garble, remove):
        assert examples(made) == taken
    assert job.prepare().reused
