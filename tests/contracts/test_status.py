"""docs/status.md says what is there; every test, command, key and file it names must exist."""

import ast
import re
import shlex
import typing
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from posttrain.config.base import Config
from posttrain.config.chat import ChatConfig
from posttrain.config.convert import ConvertConfig
from posttrain.config.download import DownloadConfig
from posttrain.config.evaluation import TASK_KINDS
from posttrain.config.export import MergeConfig, QuantizeConfig
from posttrain.config.harness import HarnessCommand
from posttrain.config.items import GenerateItemsConfig
from posttrain.config.migrate import MigrateConfig
from posttrain.config.pairs import PairsConfig
from posttrain.config.recipe import Recipe
from posttrain.config.serving import ServeConfig
from posttrain.config.tasks import list_tasks
from posttrain.config.train import AnyTrainingStage
from posttrain.config.vocabulary import ExtendTokenizerConfig
from tests.contracts.test_command_line import COMMANDS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/status.md"
HEADER = ["capability", "here", "held by", "thin or missing"]
DOCUMENTS = [
    "K-12 MCQ system",
    "Tool-calling proxy",
    "Math SFT plan",
    "Domain training module",
    "Finance LoRA",
]
SETTINGS: dict[str, type[BaseModel]] = {
    "chat": ChatConfig,
    "convert": ConvertConfig,
    "download": DownloadConfig,
    "extend-tokenizer": ExtendTokenizerConfig,
    "generate-items": GenerateItemsConfig,
    "merge": MergeConfig,
    "migrate": MigrateConfig,
    "pairs": PairsConfig,
    "quantize": QuantizeConfig,
    "serve": ServeConfig,
}
"""Commands with settings of their own; those of all others are a recipe's."""


def read_rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells if row != HEADER and not set("".join(row)) <= set("-")]


ROWS = read_rows()


def in_backticks(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text.replace("\\|", "|"))


@cache
def find_functions(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(n.name for n in tree.body if isinstance(n, ast.FunctionDef))


def kinds_of(union: Any, field: str) -> dict[str, type[BaseModel]]:
    """The members of a union by the word that tells them apart."""
    members: dict[str, type[BaseModel]] = {}
    for part in parts_of(union):
        for word in typing.get_args(part.model_fields[field].annotation):
            members[word] = part
    return members


def parts_of(annotation: Any) -> list[type[BaseModel]]:
    """Every settings class in an annotation, whatever it is wrapped in."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [part for inner in typing.get_args(annotation) for part in parts_of(inner)]


def is_mapping(annotation: Any) -> bool:
    return typing.get_origin(annotation) is dict


def has_key(parts: list[type[BaseModel]], key: list[str]) -> bool:
    """Whether a dotted key leads to a field; positions in lists are passed over."""
    key = [step for step in key if not step.isdigit()]
    if not key:
        return True
    found = [part.model_fields[key[0]].annotation for part in parts if key[0] in part.model_fields]
    return any(is_mapping(f) or has_key(parts_of(f), key[1:]) for f in found)


def is_recipe_key(key: str) -> bool:
    first, *rest = key.split(".")
    if first in ("stages", "tasks") and rest:
        stages = kinds_of(Recipe.model_fields["stages"].annotation, "stage")
        tasks = {
            task.name: TASK_KINDS[task.document.values["kind"]]
            for task in list_tasks(ROOT).values()
        }
        kinds = stages if first == "stages" else tasks
        return rest[0] in kinds and has_key([kinds[rest[0]]], rest[1:])
    return has_key([Recipe], key.split("."))


def test_every_document_has_its_part_and_every_row_its_cells():
    text = PAGE.read_text()
    assert re.findall(r"^## (.+)", text, flags=re.MULTILINE) == DOCUMENTS
    assert len(ROWS) > 200
    for row in ROWS:
        assert len(row) == len(HEADER), row
        assert row[0], row
        assert row[1], row


def test_every_test_named_exists():
    named = [name for row in ROWS for name in in_backticks(row[2])]
    assert named
    for name in named:
        path, _, function = name.partition("::")
        assert (ROOT / path).is_file(), name
        assert function in find_functions(path), name


def test_a_row_without_a_test_says_what_is_missing_or_thin():
    for row in ROWS:
        if not in_backticks(row[2]):
            assert row[3].startswith(("missing", "thin")), row
        if row[1].startswith("missing"):
            assert row[3].startswith("missing"), row
        assert not row[3] or row[3].startswith(("missing", "thin")), row


def test_commands_named_here_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    found = 0
    for text in (name for row in ROWS for name in in_backticks(row[1])):
        for command in re.findall(r"posttrain ((?!-)\S+)", text):
            assert command in COMMANDS, text
            found += 1
        for target in re.findall(r"^make (\S+)", text):
            assert target in targets, text
    assert found > 50


def test_settings_of_commands_named_here_exist():
    for text in (name for row in ROWS for name in in_backticks(row[1])):
        if not (match := re.search(r"posttrain ((?!-)\S+) (.*)", text)):
            continue
        command, rest = match.groups()
        for key in (word.split("=")[0] for word in shlex.split(rest) if "=" in word):
            own = [HarnessCommand] if "--harness" in rest else [SETTINGS.get(command, Recipe)]
            assert has_key(own, key.split(".")) or (own == [Recipe] and is_recipe_key(key)), text


def test_keys_named_here_exist():
    keys = [
        name
        for row in ROWS
        for cell in (row[1], row[3])
        for name in in_backticks(cell)
        if re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_-]+)+(=\S+)?", name)
        and name.split(".")[0] in (*Recipe.model_fields, "tasks")
    ]
    assert len(keys) > 100
    for key in keys:
        assert is_recipe_key(key.partition("=")[0]), key


def test_stages_and_files_named_here_exist():
    kinds = kinds_of(Recipe.model_fields["stages"].annotation, "stage")
    assert set(kinds) > set(kinds_of(AnyTrainingStage, "stage"))
    for row in ROWS:
        for words in re.findall(r"\bstages? ((?:`[a-z-]+`(?:, | and )?)+)", " ".join(row[1::2])):
            assert set(in_backticks(words)) <= set(kinds), row
        for name in in_backticks(row[1]):
            if re.fullmatch(r"(?:docs|posttrain|recipes|tests|bench)/\S*", name):
                assert (ROOT / name).exists(), name


@pytest.mark.parametrize("key", ["stages.sft.nothing", "tasks.gsm8k.beta", "lora.width", "stages"])
def test_a_wrong_key_would_be_noticed(key):
    assert is_recipe_key(key) == (key == "stages")
    assert issubclass(Recipe, Config)


def test_no_place_of_one_machine_is_written_down():
    files = [ROOT / name for name in ("pyproject.toml", "constraints.txt", "Makefile")]
    for folder in ("posttrain", "recipes", "bench"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml", ".json", ".jinja", ".html", ".md"):
                files.append(path)
    for path in files:
        found = re.search(r"file://|(?<![\w.])/(?:home|root|Users|mnt|work)/\w+", path.read_text())
        assert not found, f"{path}: {found[0]}"
