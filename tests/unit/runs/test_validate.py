import pytest

from posttrain.config.data import SourceConfig
from posttrain.runs.validate import _find_files, _holds


@pytest.mark.parametrize(
    ("source", "name", "held"),
    [
        ("gl", "gl/new.jsonl", True),
        ("gl", "gl/out/new.jsonl", True),
        ("gl", "gl/.new.jsonl", False),
        ("gl", "gl/.out/new.jsonl", False),
        ("gl", "glue.jsonl", False),
        ("gl/*.jsonl", "gl/new.jsonl", True),
        ("gl/*.jsonl", "gl/out/new.jsonl", False),
        ("gl/*.jsonl", "gl/.new.jsonl", False),
        ("gl/.*.jsonl", "gl/.new.jsonl", True),
        ("gl/*", "gl/out/new.jsonl", False),
        ("*/*/n?w.jsonl", "gl/out/new.jsonl", True),
        ("**/*.jsonl", "gl/out/new.jsonl", True),
        ("**/*.jsonl", "new.jsonl", True),
        ("**/*.jsonl", "gl/.out/new.jsonl", False),
        ("**/.out/*.jsonl", "gl/.out/new.jsonl", True),
        ("**/out/**/*.jsonl", "gl/out/new.jsonl", True),
        ("**/out/*.jsonl", "gl/new.jsonl", False),
        ("gl/**", "gl/out/new.jsonl", True),
        ("gl/**", "new.jsonl", False),
        ("d[1].jsonl", "d1.jsonl", False),
        ("d[12].jsonl", "d1.jsonl", True),
        ("gone.jsonl", "gone.jsonl", True),
    ],
)
def test_a_source_holds_what_is_read_once_it_is_there(tmp_path, source, name, held):
    (tmp_path / "gl" / "out").mkdir(parents=True)
    for known in ("gl/old.jsonl", "d[1].jsonl"):
        (tmp_path / known).touch()
    place = tmp_path / name

    assert _holds(tmp_path / source, place) == held

    place.parent.mkdir(exist_ok=True)
    place.touch()
    assert (place in _find_files(SourceConfig(path=tmp_path / source))) == held
