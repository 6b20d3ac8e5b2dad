import json

import pytest

from posttrain.config.data import SourceConfig, TextDataConfig
from posttrain.data.sources import expand_source, read_source, read_texts
from posttrain.errors import DataError

FILES = {
    "alpaca.json": [{"instruction": "q", "input": "more", "output": "a"}],
    "named.json": [
        {"question": "q", "answer": "a", "input": "no input", "prompt": "be brief"},
        {"question": "r", "answer": "b", "prompt": None},
    ],
    "talk.json": [
        {
            "conversation": [
                {"speaker": "boss", "text": "be brief"},
                {"speaker": "customer", "text": "q"},
                {"speaker": "caller", "text": '{"name": "f", "arguments": {"x": 1}}'},
                {"speaker": "result", "text": "1"},
                {"speaker": "agent", "text": "a"},
            ],
            "tools": '[{"name": "f", "description": "d", "parameters": {}}]',
            "functions": "[]",
        }
    ],
    "pairs.json": [
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        }
    ],
    "plain_pairs.json": [{"instruction": "q", "better": "a", "worse": "b"}],
    "labels.json": [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
         "good": True},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
         "good": False},
    ],
    "plain_labels.json": [{"instruction": "q", "output": "a", "good": True}],
    "pages.jsonl": [{"body": "one"}, {"body": "two"}],
}  # fmt: skip
TAGS = {
    "role_tag": "speaker", "content_tag": "text", "user_tag": "customer",
    "assistant_tag": "agent", "system_tag": "boss", "function_tag": "caller",
    "observation_tag": "result",
}  # fmt: skip
OPENAI = {"role_tag": "role", "content_tag": "content", "user_tag": "user",
          "assistant_tag": "assistant"}  # fmt: skip
ENTRIES = {
    "alpaca": {"file_name": "alpaca.json"},
    "named": {
        "file_name": "named.json",
        "columns": {"prompt": "question", "response": "answer", "system": "prompt"},
    },
    "talk": {
        "file_name": "talk.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversation", "tools": "tools"},
        "tags": TAGS,
    },
    "pairs": {
        "file_name": "pairs.json",
        "ranking": True,
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
    },
    "plain_pairs": {
        "file_name": "plain_pairs.json",
        "ranking": True,
        "columns": {"prompt": "instruction", "chosen": "better", "rejected": "worse"},
    },
    "labels": {
        "file_name": "labels.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "kto_tag": "good"},
        "tags": OPENAI,
    },
    "openai": {
        "file_name": "labels.json",
        "formatting": "openai",
        "columns": {"messages": "messages"},
        "tags": OPENAI,
        "num_samples": 1,
    },
    "plain_labels": {
        "file_name": "plain_labels.json",
        "columns": {"prompt": "instruction", "response": "output", "kto_tag": "good"},
    },
    "pages": {"file_name": "pages.jsonl", "columns": {"prompt": "body"}},
    "wiki": {"file_name": "wiki.txt"},
    "folder": {"file_name": "more"},
    "hub": {"hf_hub_url": "someone/rows", "ms_hub_url": "someone/rows"},
    "script": {"script_url": "somewhere"},
    "absent": {"file_name": "absent.json"},
    "pictures": {"file_name": "talk.json", "columns": {"messages": "m", "images": "images"}},
    "typo": {"file_name": "alpaca.json", "columns": {"promt": "instruction"}},
    "odd": {"file_name": "alpaca.json", "formating": "sharegpt"},
    "misplaced": {"file_name": "pairs.json", "columns": {"messages": "conversations"}},
    "format": {"file_name": "alpaca.json", "formatting": "vicuna"},
    "split": {"file_name": "alpaca.json", "split": "validation"},
}


@pytest.fixture
def registry(tmp_path):
    for name, rows in FILES.items():
        (tmp_path / name).write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
            if name.endswith("l")
            else json.dumps(rows)
        )
    (tmp_path / "wiki.txt").write_text("one\ntwo\n\nthree\n")
    (tmp_path / "more").mkdir()
    for name in "ba":
        (tmp_path / "more" / f"{name}.json").write_text(json.dumps(FILES["alpaca.json"]))
    path = tmp_path / "dataset_info.json"
    path.write_text(json.dumps(ENTRIES))
    return path


def chats(source, kind="chat"):
    found = read_source(source, kind)
    assert not found.rejects
    return [
        [(m["role"], m["content"]) for m in record.content.messages] for record in found.records
    ]


def refusal(source):
    with pytest.raises(DataError) as caught:
        expand_source(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_alpaca_entries_say_which_columns_are_used(registry):
    assert chats(SourceConfig(path=registry, dataset="alpaca")) == [
        [("user", "q\nmore"), ("assistant", "a")]
    ]
    # `input` is no column of theirs; a row without its `system` has none.
    assert chats(SourceConfig(path=registry, dataset="named")) == [
        [("system", "be brief"), ("user", "q"), ("assistant", "a")],
        [("user", "r"), ("assistant", "b")],
    ]


def test_tags_give_turns_their_roles(registry):
    found = read_source(SourceConfig(path=registry, dataset="talk"))
    (chat,) = [record.content for record in found.records]

    assert [m["role"] for m in chat.messages] == [
        "system", "user", "assistant", "tool", "assistant",
    ]  # fmt: skip
    assert chat.messages[2]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}
    assert len(chat.tools) == 1


@pytest.mark.parametrize("name", ["pairs", "plain_pairs"])
def test_ranking_entries_are_preference_pairs(registry, name):
    (record,) = read_source(SourceConfig(path=registry, dataset=name), "preference").records
    pair = record.content

    assert [m["content"] for m in (*pair.prompt, pair.chosen, pair.rejected)] == ["q", "a", "b"]
    with pytest.raises(DataError, match="are no chat rows"):
        read_source(SourceConfig(path=registry, dataset=name))


def test_labelled_entries_are_kto_rows(registry):
    found = read_source(SourceConfig(path=registry, dataset="labels"))
    assert len(found.records) == 1
    assert [reject.reason for reject in found.rejects] == ["the answer is labelled as bad"]
    plain = SourceConfig(path=registry, dataset="plain_labels")
    assert chats(plain) == [[("user", "q"), ("assistant", "a")]]


def test_number_of_samples_is_the_smaller_limit(registry):
    source = SourceConfig(path=registry, dataset="openai", limit=5)

    assert chats(source) == [[("user", "q"), ("assistant", "a")]]


@pytest.mark.parametrize(
    ("more", "texts"),
    [({}, ["one", "two", "three"]), ({"documents": "paragraph"}, ["one\ntwo", "three"])],
)
def test_a_line_of_a_text_file_is_a_document_where_nothing_else_is_said(registry, more, texts):
    source = SourceConfig(path=registry, dataset="wiki", **more)

    found = read_texts(source, TextDataConfig(sources=(source,), documents="file"))

    assert [record.content.text for record in found.records] == texts
    said = "line" if not more else "paragraph"
    assert found.report["evidence"] == f"one document a {said}"


def test_entries_of_a_prompt_alone_are_plain_text(registry):
    source = SourceConfig(path=registry, dataset="pages")
    found = read_texts(source, TextDataConfig(sources=(source,)))

    assert [record.content.text for record in found.records] == ["one", "two"]


def test_several_entries_and_folders_are_read_in_order(registry):
    source = SourceConfig(path=registry.parent, dataset="named, folder")

    assert [file.path.name for file in expand_source(source)] == ["named.json", "a.json", "b.json"]


def test_entry_must_be_named(registry):
    message = refusal(SourceConfig(path=registry))

    assert message.startswith(f"{registry}: is a registry of {len(ENTRIES)} data sets")
    assert "name one with `dataset`: alpaca, named, talk" in message
    assert message.endswith("not here: hub, script, absent")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("alpca", "no entry `alpca`; did you mean `alpaca`"),
        ("hub", "posttrain download someone/rows out=DIR kind=dataset"),
        ("script", "has no `file_name`"),
        ("absent", "no such file"),
        ("pictures", "has images; only text is read"),
        ("typo", "unknown column `promt`; did you mean `prompt`?"),
        ("odd", "unknown key `formating`; did you mean `formatting`?"),
        ("misplaced", "the column `messages` has no meaning beside its `formatting`"),
        ("format", "unknown formatting `vicuna`; known: alpaca, sharegpt, openai"),
        ("split", "a file has no split `validation`"),
    ],
)
def test_entry_that_cannot_be_read_says_why(registry, name, words):
    assert words in refusal(SourceConfig(path=registry, dataset=name))


def test_own_columns_beside_a_registry_are_refused(registry):
    source = SourceConfig(path=registry, dataset="alpaca", columns={"output": "x"})

    assert "the registry says what its columns are" in refusal(source)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "broken JSON"),
        ("[]", "is no registry"),
        ('{"a": 1}', "is no registry"),
        ('{"features": {}, "splits": {}}', "describes a saved data set"),
    ],
)
def test_what_is_no_registry_is_refused(tmp_path, content, words):
    path = tmp_path / "dataset_info.json"
    path.write_text(content)

    assert words in refusal(SourceConfig(path=path, dataset="a"))


@pytest.mark.parametrize(
    ("name", "kind", "rows"),
    [
        ("identity", "chat", 91),
        ("alpaca_en_demo", "chat", 999),
        ("glaive_toolcall_en_demo", "chat", 300),
        ("kto_en_demo", "chat", 150),
        ("dpo_en_demo", "preference", 300),
        ("c4_demo", "text", 300),
        ("wiki_demo", "text", 30),
    ],
)
def test_real_entries_need_no_other_setting(shared_data, name, kind, rows):
    source = SourceConfig(path=shared_data / "llamafactory/dataset_info.json", dataset=name)
    if kind == "text":
        found = read_texts(source, TextDataConfig(sources=(source,)))
    else:
        found = read_source(source, kind)

    assert len(found.records) == rows
    assert {r.reason for r in found.rejects} <= {"the answer is labelled as bad"}
