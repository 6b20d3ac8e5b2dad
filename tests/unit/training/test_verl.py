"""What is written for verl: settings, rows, and a reward that agrees with the evaluation."""

import importlib.util
import json
import random
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from pyarrow.parquet import read_table

from posttrain.config.load import build_recipe
from posttrain.config.verl_keys import VERL_KEYS, read_verl_setting
from posttrain.data.prepare import prepare_data
from posttrain.errors import ConfigError, DataError
from posttrain.grading.rewards import grade_answer
from posttrain.models.load import find_model
from posttrain.runtime import Compute
from posttrain.training.stage import TrainingJob
from posttrain.training.verl import export_verl, quote_value

GRPO = {
    "stage": "grpo",
    "engine": "verl",
    "rollouts": 10,
    "prompts_per_rollout": 8,
    "completions": 4,
    "updates_per_rollout": 2,
    "max_new_tokens": 32,
}
PPO = {**GRPO, "stage": "ppo", "completions": 1, "updates_per_rollout": 1}
MODEL = "actor_rollout_ref.model"
ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"


@pytest.fixture
def export(tmp_path, rows_file, cache_dir):
    """Export a stage with the given settings; return its overrides and the folder."""

    def run(*, rows=rows_file, recipe=None, data=None, **stage):
        data = {"sources": [{"path": str(rows)}], "max_tokens": 128, **(data or {})}
        settings = {**GRPO, **stage, "data": data}
        values = {"name": "test", "model": {"path": "tiny"}, "stages": [settings], **(recipe or {})}
        built = build_recipe(values, [], "test")
        compute = Compute("cpu", "fp32", 1, "a test")
        export_verl(TrainingJob(built, built.stages[0], tmp_path / "run", compute, "posttrain"))
        folder = tmp_path / "run" / "verl"
        lines = (folder / "overrides.txt").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines), folder

    return run


def test_grpo_in_the_words_of_verl(export):
    settings, folder = export(kl_weight=0.01, scale="none", updates_per_rollout=2)
    assert (
        settings.items()
        >= {
            "algorithm.adv_estimator": "grpo",
            "algorithm.norm_adv_by_std_in_grpo": "False",
            "algorithm.use_kl_in_reward": "False",
            f"{ACTOR}.use_kl_loss": "True",
            f"{ACTOR}.kl_loss_coef": "0.01",
            f"{ACTOR}.ppo_mini_batch_size": "4",
            f"{ROLLOUT}.n": "4",
            f"{ROLLOUT}.name": "vllm",
            f"{MODEL}.path": find_model("tiny"),
            "data.train_batch_size": "8",
            "data.max_prompt_length": "128",
            "data.max_response_length": "32",
            "data.train_files": str(folder / "train.parquet"),
            "reward.custom_reward_function.path": str(folder / "reward.py"),
            "trainer.total_training_steps": "10",
            "trainer.total_epochs": "2",  # 40 prompts are 5 rounds
            "trainer.save_freq": "25",  # 50 optimizer steps, 2 a round
        }.items()
    )
    assert not any(key.startswith("critic.") for key in settings)


def test_ppo_in_the_words_of_verl(export):
    settings, _ = export(**PPO, kl_weight=0.02, gae_lambda=0.9, verl={"critic_learning_rate": 2e-5})
    assert (
        settings.items()
        >= {
            "algorithm.adv_estimator": "gae",
            "algorithm.lam": "0.9",
            "algorithm.use_kl_in_reward": "True",
            "algorithm.kl_ctrl.kl_coef": "0.02",
            f"{ACTOR}.use_kl_loss": "False",
            "critic.model.path": find_model("tiny"),
            "critic.optim.lr": "2e-05",
        }.items()
    )


@pytest.mark.parametrize("stage", [GRPO, PPO])
def test_every_setting_is_known(export, stage):
    settings, _ = export(**stage, recipe={"tuning": "lora", "lora": {"targets": ["q_proj"]}})
    assert set(settings) <= set(VERL_KEYS)
    assert settings[f"{MODEL}.target_modules"] == "[q_proj]"
    assert settings[f"{ROLLOUT}.load_format"] == "safetensors"
    assert settings[f"{ROLLOUT}.layered_summon"] == "True"


def test_every_setting_can_be_reached(export):
    settings, _ = export(
        learning_rate=3e-6,
        verl={
            "rollout_backend": "sglang",
            "gpus_per_node": 2,
            "nodes": 2,
            "tensor_parallel": 2,
            "micro_batch_per_gpu": 2,
            "logger": ["console", "wandb"],
            "overrides": {f"{ACTOR}.optim.lr": "1e-5", "trainer": {"critic_warmup": 3}},
        },
    )
    assert (
        settings.items()
        >= {
            f"{ROLLOUT}.name": "sglang",
            "trainer.n_gpus_per_node": "2",
            "trainer.nnodes": "2",
            f"{ROLLOUT}.tensor_model_parallel_size": "2",
            f"{ACTOR}.ppo_micro_batch_size_per_gpu": "2",
            "trainer.logger": "[console,wandb]",
            f"{ACTOR}.optim.lr": "1e-05",  # YAML reads 1e-5 as text
            "trainer.critic_warmup": "3",
        }.items()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verl": {"gpus_per_node": 3}}, "cannot be shared out evenly over 3 GPUs"),
        ({"verl": {"micro_batch_per_gpu": 5}}, "no multiple of 5"),
        ({"verl": {"tensor_parallel": 2}}, "copies of the model on 2 each"),
        ({"updates_per_rollout": 3}, "over 3 updates_per_rollout"),
        ({"verl": {"overrides": {f"{ACTOR}.ppo_mini_batch_size": 16}}}, "no multiple of the 16"),
        ({"prompts_per_rollout": 64}, "do not make one round of 64"),
        ({"schedule": "linear"}, "no linear schedule"),
        ({"recipe": {"tuning": "qlora"}}, "in four bits"),
        ({"recipe": {"tuning": "lora", "lora": {"alpha": 0.5}}}, "a whole lora.alpha"),
        ({"recipe": {"tuning": "lora", "lora": {"dropout": 0.1}}}, "no lora.dropout"),
        ({"data": {"max_tokens": 10**6}}, "the model reads at most"),
        ({"verl": {"rollout_backend": "hf"}}, "removed its `hf` rollout"),
        ({"verl": {"overrides": {"trainer.test_frek": 1}}}, "did you mean `trainer.test_freq`?"),
        ({"verl": {"overrides": {"trainer.test_freq": "abc"}}}, "takes a whole number, not 'abc'"),
        ({"verl": {"overrides": {f"{ROLLOUT}.name": "hf"}}}, "removed its `hf` rollout"),
    ],
)
def test_what_verl_cannot_do_is_said_before_anything_is_written(export, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        export(**change)
    assert not (tmp_path / "run" / "verl").exists()


def test_adapters_are_to_be_merged_first(export, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is an adapter"):
        export(recipe={"model": {"path": str(tmp_path / "adapter")}})


def test_rows_are_the_prepared_prompts(export, rows_file, tiny_tokenizer):
    settings, folder = export(data={"split": {"validation": 0.3}})
    written = [
        row
        for s in ("train", "validation")
        for row in read_table(folder / f"{s}.parquet").to_pylist()
    ]
    config = (
        build_recipe(
            {
                "name": "test",
                "model": {"path": "tiny"},
                "stages": [
                    {
                        **GRPO,
                        "data": {
                            "sources": [{"path": str(rows_file)}],
                            "max_tokens": 128,
                            "split": {"validation": 0.3},
                        },
                    }
                ],
            },
            [],
            "test",
        )
        .stages[0]
        .data
    )
    prepared = prepare_data(config, tiny_tokenizer)
    stores = (prepared.train, prepared.validation)
    assert len(written) == sum(map(len, stores)) == 40
    assert settings["trainer.test_freq"] == "25"
    places = [(store, index) for store in stores for index in range(len(store))]
    for row, (store, index) in zip(written, places, strict=True):
        ids = tiny_tokenizer.apply_chat_template(
            row["prompt"], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert ids == store.example(index)[0].tolist()
        assert row["reward_model"]["ground_truth"] == store.notes[index]["reference"]
        assert row["extra_info"]["origin"] == str(store.origin(index))


def test_too_long_rows_are_not_among_them(export, tmp_path):
    rows = [{"question": "one " * n, "answer": f"#### {n}"} for n in (2, 3, 90)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = {"prompts_per_rollout": 2, "updates_per_rollout": 1}
    data = {"max_tokens": 64, "max_reject_fraction": 0.5}
    _, folder = export(rows=tmp_path / "long.jsonl", data=data, **small)
    found = read_table(folder / "train.parquet").to_pylist()
    assert [row["reward_model"]["ground_truth"] for row in found] == ["2", "3"]


def test_an_empty_validation_set_is_not_answered(export):
    settings, folder = export()
    assert settings["trainer.test_freq"] == "-1"
    assert [
        row["extra_info"]["split"] for row in read_table(folder / "validation.parquet").to_pylist()
    ] == ["none"]


def test_prompts_with_tools_are_refused(export, tmp_path, tiny_tokenizer):
    tool = {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
    }
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Add {n}."},
                {"role": "assistant", "content": "Done."},
            ],
            "tools": [tool],
        }
        for n in range(8)
    ]
    (tmp_path / "tools.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = "{% if tools %}{{ tools | tojson }}{% endif %}" + tiny_tokenizer.chat_template
    (tmp_path / "tools.jinja").write_text(template)
    model = {"path": "tiny", "chat_template": str(tmp_path / "tools.jinja")}
    rewards = {"answer": 0, "format": 1}
    with pytest.raises(DataError, match=r"tools\.jsonl:1: verl would render this prompt otherwise"):
        export(rows=tmp_path / "tools.jsonl", rewards=rewards, recipe={"model": model})


def test_a_missing_reference_is_refused(export, tmp_path):
    rows = [{"prompt": f"Say {n}.", "completion": "No."} for n in range(8)]
    (tmp_path / "plain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"plain\.jsonl:1: no reference answer"):
        export(rows=tmp_path / "plain.jsonl")


PARTS = (
    "#### 42", "\\boxed{42}", "\\boxed{\\frac{1}{2}}", "The answer is 1,000.", "答案是 3/4。",
    "so x = 7", "$0.5$", "-12", "12 %", "####", "\\boxed{", "", "#### 42.0", "4 2", "\\boxed{x, y}",
    "The answer is $\\sqrt{2}$. I hope", "\n", "#### -12 apples", "\\frac12", "1000", "\\boxed 7",
)  # fmt: skip
REFERENCES = ("42", "1/2", "1000", "0.75", "7", "-12", "x, y", "\\sqrt{2}", "\\frac{1}{2}", "3/4")


def test_the_reward_agrees_with_the_evaluation_and_needs_nothing_of_ours(export):
    _, folder = export(rewards={"answer": 2.0, "format": 0.5})
    draw = random.Random(3)
    cases = [
        (" ".join(draw.choices(PARTS, k=draw.randint(1, 3))), draw.choice(REFERENCES))
        for _ in range(2000)
    ]
    script = (
        "import importlib.util, json, sys\n"
        "spec = importlib.util.spec_from_file_location('custom_module', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "cases = json.load(sys.stdin)\n"
        "print(json.dumps([module.compute_score('rows', *case) for case in cases]))\n"
    )
    # Isolated and without site-packages: only Python's own modules can be imported.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, str(folder / "reward.py")],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    verdicts = [grade_answer(*case) for case in cases]
    assert len({*verdicts}) == 4  # every combination was met
    for score, (right, in_form) in zip(found, verdicts, strict=True):
        assert score == {
            "score": 2.0 * right + 0.5 * in_form,
            "acc": float(right),
            "format": float(in_form),
        }


class RewardServer(BaseHTTPRequestHandler):
    """Stands where verl's reward model server would; its score is the text's length."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        name = "probs" if self.path == "/classify" else "embedding"
        reply = json.dumps({"data": [{name: [len(body["input"]) / 1000]}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass


@pytest.fixture
def reward_server():
    server = HTTPServer(("127.0.0.1", 0), RewardServer)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("backend", "path"), [("vllm", "/classify"), ("sglang", "/v1/embeddings")])
def test_a_reward_model_is_asked(export, monkeypatch, reward_server, tiny_tokenizer, backend, path):
    rewards = {"answer": 1.0, "model": "tiny", "model_weight": 10.0}
    settings, folder = export(rewards=rewards, verl={"rollout_backend": backend})
    assert settings["reward.reward_model.enable"] == "True"
    assert settings["reward.reward_model.model_path"] == "tiny"
    row = read_table(folder / "train.parquet").to_pylist()[0]
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("custom_module", folder / "reward.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reference = row["reward_model"]["ground_truth"]
    given = ("rows", f"#### {reference}", reference, row["extra_info"])
    address = f"127.0.0.1:{reward_server.server_port}"
    score = module.compute_score(*given, address, tiny_tokenizer)
    [(asked, body)] = reward_server.asked
    assert (asked, body["model"]) == (path, "tiny")
    prompt = tiny_tokenizer.apply_chat_template(
        row["prompt"], add_generation_prompt=True, tokenize=False
    )
    text = f"{prompt}#### {reference}{tiny_tokenizer.eos_token}"
    assert body["input"] == text.removeprefix(tiny_tokenizer.bos_token or "")
    assert score["score"] == pytest.approx(1.0 + 10.0 * len(body["input"]) / 1000)
    with pytest.raises(RuntimeError, match="without the reward model"):
        module.compute_score(*given)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (True, "True"),
        (None, "null"),
        (1e-6, "1e-06"),
        ("/a/b-c_1.txt", "/a/b-c_1.txt"),
        ("true", "'true'"),
        ("", "''"),
        ("12", "'12'"),
        ("it's", "'it\\'s'"),
        ("a\\'b", "'a\\\\\\'b'"),
        ("ends\\", "'ends\\\\'"),
        ("a=b,c", "'a=b,c'"),
        (["a", "b c"], "[a,'b c']"),
    ],
)
def test_values_are_quoted_for_hydra(value, written):
    assert quote_value(value) == written


def test_what_hydra_would_replace_is_refused():
    with pytest.raises(ConfigError, match="cannot be given"):
        quote_value("runs/${name}")


def test_a_key_may_be_null_only_where_verl_has_it_so():
    assert read_verl_setting("trainer.resume_from_path", None) is None
    with pytest.raises(ValueError, match="takes a whole number, not None"):
        read_verl_setting("trainer.nnodes", None)
    with pytest.raises(ValueError, match="takes a whole number, not True"):
        read_verl_setting("trainer.nnodes", True)
