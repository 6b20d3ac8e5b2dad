from pathlib import Path

import pytest

from posttrain.config.chat import ChatConfig
from posttrain.config.load import build_recipe, build_settings, load_recipe, load_settings
from posttrain.config.validate import ValidateConfig
from posttrain.errors import ConfigError

RECIPE = """\
name: study
model:
  path: tiny
stages:
  - stage: sft
    data:
      sources:
        - path: rows.jsonl
    epochs: 2
"""


@pytest.fixture
def write(tmp_path):
    def write_recipe(text, name="recipe.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write_recipe


def mistake_in(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "nearest"),
    [
        ("name: study", "nme: study", 1, "nme", "name"),
        ("  path: tiny", "  pth: tiny", 3, "model.pth", "path"),
        ("    epochs: 2", "    epoch: 2", 9, "stages.0.epoch", "epochs"),
        ("      sources:", "      source:", 7, "stages.0.data.source", "sources"),
        ("path: rows", "pathe: rows", 8, "stages.0.data.sources.0.pathe", "path"),
    ],
)
def test_unknown_key_names_line_and_nearest_key(write, old, new, line, key, nearest):
    path = write(RECIPE.replace(old, new))

    assert f"{path}:{line}: unknown key `{key}`; did you mean `{nearest}`?" in mistake_in(path)


def test_key_one_level_too_high_is_told_its_place(write):
    text = RECIPE.replace("    epochs: 2", "    max_tokens: 64")

    assert "did you mean `data.max_tokens`?" in mistake_in(write(text))


def test_no_class_of_ours_is_in_a_message(write):
    message = mistake_in(write(RECIPE), "compute=[cpu]")

    assert message.endswith("`compute`: Input should be a mapping, {key: value}")


def test_rank_by_its_letter_is_told_its_name(write):
    assert "here it is `lora.rank`" in mistake_in(write(RECIPE + "lora: {r: 8}\n"))


def test_unknown_key_like_no_other_lists_the_known_ones(write):
    message = mistake_in(write(RECIPE + "zzz: 1\n"))

    assert "unknown key `zzz`; known keys: name, output, seed, model" in message


def test_unknown_key_in_an_override_names_the_command_line(write):
    message = mistake_in(write(RECIPE), "lora.rnk=8")

    assert message == ("command line `lora.rnk=8`: unknown key `lora.rnk`; did you mean `rank`?")


def test_unknown_key_inside_an_overridden_list_item(write):
    message = mistake_in(write(RECIPE), "stages.sft.data.sources.0.limt=3")

    assert "command line" in message
    assert "did you mean `limit`?" in message


def test_all_mistakes_are_reported_at_once(write):
    message = mistake_in(write(RECIPE.replace("epochs: 2", "epoch: 2") + "sead: 1\n"))

    assert len(message.splitlines()) == 2


@pytest.mark.parametrize(
    ("old", "key"),
    [
        ("name: study\n", "name"),
        ("model:\n  path: tiny\n", "model"),
        ("    data:\n      sources:\n        - path: rows.jsonl\n", "stages.0.data"),
    ],
)
def test_missing_key_is_named(write, old, key):
    assert f"`{key}` is missing" in mistake_in(write(RECIPE.replace(old, "")))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("seed: many", "valid integer"),
        ("seed: 1.5", "fractional part"),
        ("seed: -1", "greater than or equal to 0"),
        ("tuning: half", "'full', 'lora' or 'qlora'"),
        ("tuning: {full: 1}", "'full', 'lora' or 'qlora'"),
        ("lora: {dropout: 1}", "less than 1"),
        ("lora: {alpha: .inf}", "finite"),
        ("compute: {threads: 0}", "greater than 0"),
        ("lora: {targets: all}", "should be a list"),
        ("compute: cpu", "should be a mapping, {key: value}"),
    ],
)
def test_wrong_value_names_its_line_and_reason(write, line, reason):
    path = write(RECIPE + line + "\n")
    message = mistake_in(path)

    assert message.startswith(f"{path}:10: `")
    assert reason in message


@pytest.mark.parametrize("value", [".inf", ".nan", "0", "-1"])
def test_epochs_that_never_end_or_begin_are_refused(write, value):
    assert "`stages.0.epochs`" in mistake_in(write(RECIPE), f"stages.sft.epochs={value}")


def test_yes_is_no_number(write):
    message = mistake_in(write(RECIPE), "stages.sft.steps=yes")

    assert "`steps` is no switch; it cannot be true" in message


def test_switch_still_takes_yes(write):
    recipe = load_recipe(write(RECIPE), ["stages.sft.activation_checkpointing=yes"])

    assert recipe.stages[0].activation_checkpointing is True


def test_number_without_a_point_is_read_as_one(write):
    # YAML 1.1 takes 2e-5 for a string.
    recipe = load_recipe(write(RECIPE + "    learning_rate: 2e-5\n"))

    assert recipe.stages[0].learning_rate == 2e-5


def test_yaml_syntax_error_names_the_line(write):
    path = write("name: study\nmodel: {path: tiny\nstages: []\n")

    assert mistake_in(path).startswith(f"{path}:3: not valid YAML")


def test_key_written_twice_names_the_second_line(write):
    path = write(RECIPE + "name: other\n")

    assert mistake_in(path) == f"{path}:10: `name` is written twice; keep one of them"


def test_nested_key_written_twice_is_refused(write):
    assert "`path` is written twice" in mistake_in(
        write(RECIPE.replace("  path: tiny", "  path: tiny\n  path: other"))
    )


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n"])
def test_file_that_is_no_mapping_is_refused(write, text):
    assert "a recipe is a mapping" in mistake_in(write(text))


def test_value_with_a_python_tag_is_refused_in_one_line(write):
    path = write(RECIPE.replace("name: study", "name: !!python/name:os.system study"))
    message = mistake_in(path)

    assert message.startswith(f"{path}:1: cannot read this value")
    assert "\n" not in message


def test_alias_that_holds_itself_is_refused(write):
    assert "alias holds itself" in mistake_in(write("name: &loop [*loop]\n"))


def test_missing_recipe_is_one_line(tmp_path):
    assert "cannot read the recipe" in mistake_in(tmp_path / "absent.yaml")


def test_recipe_that_is_not_utf8_says_so(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: café\n".encode("latin-1"))

    assert "not UTF-8 text (byte 9)" in mistake_in(path)


def test_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "bom.yaml"
    path.write_text(RECIPE, encoding="utf-8-sig")

    assert load_recipe(path).name == "study"


def test_unknown_stage_lists_the_known_ones(write):
    message = mistake_in(write(RECIPE.replace("stage: sft", "stage: sftt")))

    assert "`stages.0.stage: sftt` is no stage" in message
    assert "'sft'" in message


def test_stage_without_a_kind_is_refused(write):
    message = mistake_in(write(RECIPE.replace("- stage: sft", "- name: tune")))

    assert "`stages.0` needs the key `stage`" in message


def test_base_is_merged_key_by_key(write):
    write(RECIPE + "lora: {rank: 4, alpha: 8}\n", "base.yaml")
    recipe = load_recipe(write("base: base.yaml\nname: other\nlora: {rank: 2}\n"))

    assert (recipe.name, recipe.lora.rank, recipe.lora.alpha) == ("other", 2, 8)
    assert recipe.stages[0].epochs == 2


def test_list_of_the_base_is_replaced_whole(write):
    write(RECIPE, "base.yaml")
    stages = "stages:\n  - {stage: sample-data, kind: math, num: 3}\n"
    recipe = load_recipe(write("base: base.yaml\n" + stages))

    assert [stage.stage for stage in recipe.stages] == ["sample-data"]


def test_base_is_found_beside_the_including_file(write, monkeypatch, tmp_path):
    write(RECIPE, "deep/base.yaml")
    path = write("base: base.yaml\n", "deep/recipe.yaml")
    monkeypatch.chdir(tmp_path)

    assert load_recipe(Path("deep/recipe.yaml")) == load_recipe(path)
    assert load_recipe(path).name == "study"


def test_base_may_have_a_base(write):
    write(RECIPE, "first.yaml")
    write("base: first.yaml\nseed: 3\n", "second.yaml")
    recipe = load_recipe(write("base: second.yaml\ntuning: lora\n"))

    assert (recipe.name, recipe.seed, recipe.tuning) == ("study", 3, "lora")


def test_mistake_in_the_base_names_the_base(write):
    base = write(RECIPE.replace("epochs", "epoch"), "base.yaml")

    assert f"{base}:9:" in mistake_in(write("base: base.yaml\n"))


def test_mistake_above_the_base_names_the_including_file(write):
    write(RECIPE + "lora: {rank: 4}\n", "base.yaml")
    path = write("base: base.yaml\nlora:\n  rank: 0\n")

    assert mistake_in(path).startswith(f"{path}:3: `lora.rank`")


def test_mistake_in_a_replaced_list_does_not_name_the_base(write):
    write(RECIPE, "base.yaml")
    path = write("base: base.yaml\nstages:\n  - stage: sft\n")

    assert mistake_in(path) == f"{path}:3: `stages.0.data` is missing"


def test_mistake_in_an_overridden_part_does_not_name_the_file(write):
    path = write(RECIPE + "lora: {rank: 4}\n")

    assert mistake_in(path, "lora={rank: 0}").startswith("command line `lora={rank: 0}`:")


def test_circle_of_bases_is_refused(write):
    write("base: recipe.yaml\n", "base.yaml")

    assert "includes itself through `base:`" in mistake_in(write("base: base.yaml\n"))


def test_missing_base_names_the_file_it_looked_for(write, tmp_path):
    assert str(tmp_path / "nowhere.yaml") in mistake_in(write("base: nowhere.yaml\n"))


def test_base_that_is_no_file_name_is_refused(write):
    path = write("base: [a, b]\n")

    assert f"{path}:1: `base` is one file name" in mistake_in(path)


def test_variable_is_replaced(write, monkeypatch):
    monkeypatch.setenv("STUDY", "from-outside")

    assert load_recipe(write(RECIPE.replace("study", "${STUDY}"))).name == "from-outside"


def test_variable_may_be_a_number_and_part_of_a_text(write, monkeypatch, tmp_path):
    monkeypatch.setenv("EPOCHS", "3")
    monkeypatch.setenv("ROWS", "some")
    text = RECIPE.replace("epochs: 2", "epochs: ${EPOCHS}").replace("rows.", "${ROWS}/rows.")
    stage = load_recipe(write(text)).stages[0]

    assert stage.epochs == 3
    assert stage.data.sources[0].path == tmp_path / "some" / "rows.jsonl"


def test_default_stands_in_for_an_unset_and_for_an_empty_variable(write, monkeypatch):
    path = write(RECIPE.replace("study", "${STUDY:-fallback}"))
    monkeypatch.delenv("STUDY", raising=False)
    assert load_recipe(path).name == "fallback"
    monkeypatch.setenv("STUDY", "")
    assert load_recipe(path).name == "fallback"
    monkeypatch.setenv("STUDY", "given")
    assert load_recipe(path).name == "given"


@pytest.mark.parametrize(("value", "state"), [(None, "not set"), ("", "empty")])
def test_variable_without_value_or_default_names_its_line(write, monkeypatch, value, state):
    monkeypatch.delenv("STUDY", raising=False)
    if value is not None:
        monkeypatch.setenv("STUDY", value)
    path = write(RECIPE.replace("path: tiny", "path: ${STUDY}"))

    assert mistake_in(path).startswith(f"{path}:3: the environment variable STUDY is {state}")


def test_paths_start_from_the_recipe_and_overrides_from_the_current_folder(
    write, monkeypatch, tmp_path
):
    path = write(RECIPE + "output: here\n", "recipes/recipe.yaml")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    assert load_recipe(path).output == tmp_path / "recipes" / "here"
    assert load_recipe(path, ["output=there"]).output == tmp_path / "elsewhere" / "there"


def test_path_of_an_overridden_source_starts_from_the_current_folder(write, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = write(RECIPE, "recipes/recipe.yaml")
    recipe = load_recipe(path, ["stages.sft.data.sources=[{path: mine.json}]"])

    assert recipe.stages[0].data.sources[0].path == tmp_path / "mine.json"


def test_path_of_a_base_starts_from_the_base(write, tmp_path):
    write(RECIPE, "shared/base.yaml")
    recipe = load_recipe(write("base: shared/base.yaml\n", "recipe.yaml"))

    assert recipe.stages[0].data.sources[0].path == tmp_path / "shared" / "rows.jsonl"


@pytest.mark.parametrize("name", ["tiny", "tiny-wide", "Qwen/Qwen3-8B", "org/model.v1"])
def test_hub_ids_and_built_in_names_are_left_alone(write, name):
    assert load_recipe(write(RECIPE.replace("tiny", name))).model.path == name


def test_model_folder_becomes_absolute(write, tmp_path):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    path = write(RECIPE.replace("tiny", "models/mine"))

    assert load_recipe(path).model.path == str(tmp_path / "models" / "mine")
    assert load_recipe(path, ["model.path=./absent"]).model.path == str(Path.cwd() / "absent")


def test_stage_is_reached_by_name_kind_and_position(write):
    path = write(RECIPE.replace("stage: sft", "stage: sft\n    name: tune"))

    for key in ("stages.tune.epochs", "stages.sft.epochs", "stages.0.epochs"):
        assert load_recipe(path, [f"{key}=7"]).stages[0].epochs == 7


def test_kind_that_two_stages_share_must_be_told_apart(write):
    extra = (
        "  - {stage: sample-data, name: a, kind: math, num: 1}\n"
        "  - {stage: sample-data, name: b, kind: math, num: 1}\n"
    )
    path = write(RECIPE + extra)

    assert "give their position: 1, 2" in mistake_in(path, "stages.sample-data.num=5")
    assert [s.num for s in load_recipe(path, ["stages.b.num=5"]).stages[1:]] == [1, 5]


def test_stage_that_is_not_there_lists_those_that_are(write):
    message = mistake_in(write(RECIPE), "stages.dpo.epochs=1")

    assert message == "command line `stages.dpo.epochs=1`: no item `dpo`; there are: sft"


def test_later_override_wins(write):
    assert load_recipe(write(RECIPE), ["seed=1", "seed=2"]).seed == 2


def test_override_of_one_use_of_an_alias_leaves_the_other(write):
    text = """\
name: study
model: {path: tiny}
stages:
  - stage: evaluate
    name: before
    tasks: &tasks
      - {task: gsm8k, data: {path: a.jsonl}}
  - {stage: evaluate, name: after, tasks: *tasks}
"""
    recipe = load_recipe(write(text), ["stages.after.tasks.gsm8k.batch_size=3"])

    assert [stage.tasks[0].batch_size for stage in recipe.stages] == [64, 3]


@pytest.mark.parametrize("text", ["seed", "=3", ""])
def test_override_that_is_no_pair_is_refused(write, text):
    assert "not of the form key=value" in mistake_in(write(RECIPE), text)


@pytest.mark.parametrize("value", ["[1", "2024-13-45"])
def test_override_whose_value_is_no_yaml_is_refused(write, value):
    assert "the value is not valid YAML" in mistake_in(write(RECIPE), f"name={value}")


def test_override_below_a_plain_value_is_refused(write):
    message = mistake_in(write(RECIPE), "model.path.x=1")

    assert message == (
        "command line `model.path.x=1`: `model.path` is one value and has no keys below it"
    )


def test_override_may_hold_an_equals_sign(write):
    recipe = load_recipe(write(RECIPE), ["stages.sft.data.sources.0.columns={output: a=b}"])

    assert recipe.stages[0].data.sources[0].columns == {"output": "a=b"}


def test_override_with_null_goes_back_to_the_default(write):
    assert load_recipe(write(RECIPE + "output: here\n"), ["output=null"]).output is None


def test_values_made_in_code_are_not_changed_by_overrides():
    source = {"path": Path("/rows.jsonl")}
    values = {
        "name": "data",
        "model": {"path": "tiny"},
        "stages": [{"stage": "sft", "data": {"sources": [source]}}],
    }
    recipe = build_recipe(values, ["stages.sft.data.max_tokens=5"], "rows.jsonl")

    assert recipe.stages[0].data.max_tokens == 5
    assert "max_tokens" not in values["stages"][0]["data"]


def test_chat_settings_name_the_nearest_key():
    assert build_settings(ChatConfig, {"model": "tiny"}, ["temperature=0.5"]).temperature == 0.5
    with pytest.raises(ConfigError, match="did you mean `temperature`"):
        build_settings(ChatConfig, {"model": "tiny"}, ["temprature=0.5"])


SPLIT = "stages.sft.data.split"


def split_of(path, *overrides):
    split = load_recipe(path, overrides).stages[0].data.split
    return split.validation, split.test, split.seed, split.group_by


@pytest.mark.parametrize("ratio", ["8:1:1", "'8:1:1'", "[8, 1, 1]", "80:10:10", "0.8:0.1:0.1"])
def test_a_ratio_is_read_as_it_stands(write, ratio):
    indented = RECIPE.replace("      sources:", f"      split: {ratio}\n      sources:")
    found = [
        split_of(write(indented)),
        split_of(write(RECIPE), f"{SPLIT}={ratio}"),
        split_of(write(RECIPE), f"stages.sft.data={{sources: [{{path: a}}], split: {ratio}}}"),
    ]

    assert found == [(pytest.approx(0.1), pytest.approx(0.1), 0, None)] * 3


def test_a_ratio_goes_with_the_other_keys_in_any_order(write):
    ratio, group = f"{SPLIT}=8:1:1", f"{SPLIT}.group_by=passage"
    held = RECIPE.replace("      sources:", "      split: 6:2:2\n      sources:")

    assert split_of(write(RECIPE), ratio, group) == (0.1, 0.1, 0, "passage")
    assert split_of(write(RECIPE), group, ratio) == (0.1, 0.1, 0, "passage")
    assert split_of(write(held), group) == (0.2, 0.2, 0, "passage")
    assert split_of(write(held), f"{SPLIT}.test=0") == (0.2, 0.0, 0, None)


def test_a_shorthand_over_a_mapping_of_the_base_leaves_its_other_keys(write):
    # Stages are a list, which is replaced as a whole; the settings of a command are not.
    write("contamination: {against: [{path: t.jsonl}], action: report}\n", "base.yaml")
    path = write("base: base.yaml\npath: a.jsonl\ncontamination: drop\n")
    found = load_settings(ValidateConfig, path, ["contamination.keys=[id]"]).contamination

    assert (found.action, found.keys, len(found.against)) == ("drop", ("id",), 1)


@pytest.mark.parametrize("ratio", ["8:1", "8", "0:1:1", "a:b:c", "8:-1:1", "8:1:inf"])
def test_a_ratio_that_is_none_is_told_with_its_place(write, ratio):
    message = mistake_in(write(RECIPE), f"{SPLIT}={ratio}")

    assert message.startswith(f"command line `{SPLIT}={ratio}`: `stages.0.data.")
    assert len(message.splitlines()) == 1


def test_numbers_and_dates_stay_what_they_are(write):
    path = write(RECIPE.replace("epochs: 2", "epochs: 0x2\n    learning_rate: 1.5e-3"))
    stage = load_recipe(path, ["seed=12"]).stages[0]

    assert (stage.epochs, stage.learning_rate) == (2, 0.0015)


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("optimizer: adamw_torch", "did you mean `adamw`?"),
        ("schedule: cosin", "did you mean `cosine`?"),
        ("optimizer: zzz", "(given: 'zzz')"),
    ],
)
def test_an_unknown_word_gets_the_nearest_known_one(write, line, near):
    stage = f"- {{stage: sft, name: second, data: {{sources: [{{path: a}}]}}, {line}}}"
    path = write(RECIPE.rstrip("\n") + f"\n  {stage}\n")
    assert mistake_in(path).endswith(near)


def test_online_training_counts_rollouts(write):
    stage = "- {stage: grpo, data: {sources: [{path: a}]}, steps: 3}"
    assert "did you mean `rollouts`?" in mistake_in(write(RECIPE.rstrip("\n") + f"\n  {stage}\n"))


@pytest.mark.parametrize("key", ["early_stopping: {patience: 2}", "final_model: best"])
def test_what_looks_at_validation_needs_rows_for_it(write, key):
    data = "data: {sources: [{path: a}], split: {validation: 0}}"
    stage = f"- {{stage: sft, name: second, {data}, {key}}}"
    assert "no validation rows" in mistake_in(write(RECIPE.rstrip("\n") + f"\n  {stage}\n"))
