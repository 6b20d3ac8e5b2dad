"""A stop in every phase: exit status 130, one line how to go on, and going on to the same end."""

import os
import signal
import time

import pytest

from tests.torture.conftest import RECIPE, Place, wants_all

pytestmark = pytest.mark.slow

DPO = """\
  - {stage: sample-data, name: pairs, kind: preference, num: 200, seed: 1}
  - {stage: dpo, data: {sources: [{from_stage: pairs}], split: {validation: 0.05}}, steps: 6,
     batch_tokens: 2048, save_every_steps: 3}
"""
GRPO = """\
  - {stage: grpo, start_from: base, data: {sources: [{from_stage: rows}]}, rollouts: 3,
     prompts_per_rollout: 4, completions: 12, max_new_tokens: 200, batch_tokens: 1024,
     rewards: {answer: 0, format: 1}, updates_per_rollout: 2, log_every_steps: 1}
"""
REST = """\
  - {stage: evaluate, tasks: [{task: gsm8k, data: {from_stage: rows, limit: 40}}]}
  - {stage: merge, model_from: sft}
  - {stage: quantize, model_from: merge, method: int8}
"""
HEAD, _, SFT = RECIPE.partition("  - stage: sft")
SFT = "  - stage: sft" + SFT.replace("steps: 60", "steps: 12")

# Phase -> stages of the recipe, tuning, how the phase is known: a file's pattern, or a line.
PHASES = {
    "preparation": (SFT, "full", "cache/prepared/.*.*"),
    "loading the model": (SFT, "full", "attention: "),
    "a step": (SFT, "full", "step 4/12"),
    "a save": (SFT, "full", "runs/small/sft/checkpoints/.step-*"),
    "validation": (SFT, "lora", "runs/small/sft/checkpoints/step-000003"),
    "writing the model": (SFT, "full", "runs/small/sft/.final.*"),
    "reference scoring": (DPO, "full", "runs/small/dpo/.reference.lock"),
    "a rollout": (GRPO, "full", "training: "),
    "evaluation": (SFT + REST, "lora", "stage evaluate: evaluate"),
    "merging": (SFT + REST, "lora", "stage merge: merge"),
    "quantizing": (SFT + REST, "lora", "stage quantize: quantize"),
}
SAMPLE = ("a save", "a rollout")


def pytest_generate_tests(metafunc):
    if "phase" in metafunc.fixturenames:
        wanted = PHASES if wants_all(metafunc.config) else SAMPLE
        metafunc.parametrize("phase", wanted)


def test_a_stop_in_each_phase_and_going_on(phase, cache_dir, tmp_path, note):
    stages, tuning, sign = PHASES[phase]
    cache = None if phase == "preparation" else cache_dir
    place = Place(tmp_path, HEAD + stages, cache)
    command = ("run", "small.yaml", f"tuning={tuning}", "seed=3")
    process = place.start(*command)
    wait_for(place, process, sign)
    os.kill(process.pid, signal.SIGTERM)
    stopped = process.wait(120)
    assert stopped.returncode == 130, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert "; go on with: " in stopped.stderr.splitlines()[-1]
    again = place.finish(*command)
    assert again.returncode == 0, again.stderr
    assert place.finish("verify", "runs/small").returncode == 0
    note(f"SIGTERM in {phase}")


def wait_for(place, process, sign):
    if not sign.startswith(("runs/", "cache/")):
        process.wait_for(sign)
        return
    ends = time.monotonic() + 120
    while not any(place.folder.glob(sign)):
        assert process.is_alive()
        assert time.monotonic() < ends
        time.sleep(0.001)
