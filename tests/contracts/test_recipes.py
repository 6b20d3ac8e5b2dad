"""Every recipe in the project loads, and the schema that editors use is today's."""

import json
import re
from pathlib import Path

import pytest

from posttrain.config.load import load_recipe
from posttrain.config.schema import build_reference, build_schema

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_recipe_loads_and_names_the_schema(path):
    load_recipe(path)
    header = path.read_text().splitlines()[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", header)
    assert named
    assert (path.parent / named[1]).resolve() == ROOT / "recipes" / "recipe.schema.json"


def test_committed_schema_is_current():
    committed = json.loads((ROOT / "recipes/recipe.schema.json").read_text())
    assert committed == build_schema(), "run `make schema`"
    reference = (ROOT / "docs/settings.md").read_text()
    assert reference == build_reference() + "\n", "run `make schema`"


def test_every_setting_is_documented_in_the_schema():
    schema = build_schema()
    # What their type or their class says already.
    plain = {"stage", "name", "seed", "data", "split", "contamination", "lora", "compute", "model"}
    plain |= {"weight_decay", "save_every_steps", "log_every_steps", "max_grad_norm", "tasks"}
    for name, part in {"Recipe": schema, **schema["$defs"]}.items():
        for field, info in part.get("properties", {}).items():
            assert field in plain or info.get("description"), f"{name}.{field}"
