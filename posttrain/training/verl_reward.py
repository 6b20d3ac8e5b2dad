"""What verl calls to learn what an answer is worth: it grades as the evaluation does.

This file is copied beside the data that verl reads, together with the grading modules it needs and
``reward.json``, which holds the weights; it needs nothing else there.
"""

from __future__ import annotations

import functools
import json
import time
import urllib.request
from pathlib import Path
from typing import Any

from posttrain.grading.rewards import grade_answer

_TRIES = 6


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
    **_: Any,
) -> dict[str, float]:
    """Grade one answer; verl calls this from several threads.

    Args:
        data_source: Where the prompt comes from.
        solution_str: The answer, without special tokens.
        ground_truth: The reference answer; empty where there is none.
        extra_info: Of the prompt's row; with a reward model its ``prompt``, messages as JSON.
        reward_router_address: Host and port of verl's reward model servers.
        reward_model_tokenizer: Of the reward model.

    Returns:
        ``score``, what the answer is worth, and its parts before their weights: ``acc``,
        ``format``, ``model``. verl is not told whether an answer has ended, so ``format`` counts
        one that was cut off behind its marker, too.
    """
    weights = _load_weights()
    right, in_form = grade_answer(solution_str, ground_truth)
    parts = {"acc": float(right), "format": float(in_form)}
    score = weights["answer"] * parts["acc"] + weights["format"] * parts["format"]
    if weights["model"]:
        if reward_router_address is None or extra_info is None:
            raise RuntimeError("verl runs without the reward model: reward.reward_model.enable")
        prompt = json.loads(extra_info["prompt"])
        text = render_answer(reward_model_tokenizer, prompt, solution_str)
        parts["model"] = ask_model(f"http://{reward_router_address}", weights, text)
        score += weights["model_weight"] * parts["model"]
    return {"score": score, **parts}


@functools.cache
def _load_weights() -> dict[str, Any]:
    path = Path(__file__).resolve().with_name("reward.json")
    weights: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return weights


def render_answer(tokenizer: Any, prompt: list[dict[str, str]], answer: str) -> str:
    """Lay out a prompt with its answer as reward models are trained here: up to the end token."""
    text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    # The server puts a begin token before every text.
    return str(text).removeprefix(tokenizer.bos_token or "") + answer + tokenizer.eos_token


def ask_model(server: str, weights: dict[str, Any], text: str) -> float:
    """Ask verl's reward model server for the score of a text; it may be waking up.

    Args:
        server: Address with ``http://``.
        weights: ``model``, its name there, and ``backend``, ``vllm`` or ``sglang``.
        text: Prompt and answer.

    Raises:
        OSError: It has not answered in several tries.
    """
    vllm = weights["backend"] == "vllm"
    body: dict[str, Any] = {"model": weights["model"], "input": text}
    if vllm:
        body["use_activation"] = False
    address = f"{server}/{'classify' if vllm else 'v1/embeddings'}"
    kind = {"Content-Type": "application/json"}
    # verl's own address.
    request = urllib.request.Request(address, json.dumps(body).encode(), kind)  # noqa: S310
    for tried in range(_TRIES):
        try:
            with urllib.request.urlopen(request, timeout=600) as reply:  # noqa: S310
                newest = json.load(reply)["data"][-1]
            return float(newest["probs" if vllm else "embedding"][-1])
        except OSError:
            if tried == _TRIES - 1:
                raise
            time.sleep(2**tried)
    raise AssertionError
