import json
from types import SimpleNamespace

import pytest

QUESTION = "小明有 3 个苹果 & 妈妈又给了他 <script>alert(1)</script> 4 个，一共几个？"


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def make_record(number, correct, *, who="", **changes):
    record = {
        "id": f"data/test.jsonl:{number}",
        "prompt": [
            {"role": "system", "content": "Think step by step."},
            {"role": "user", "content": f"Problem {number}. {QUESTION}"},
        ],
        "reference": "7",
        "completion": f"{who} 3 + 4 = {'7' if correct else '9'}\n#### {7 if correct else 9}",
        "answer": "7" if correct else "9",
        "parse": "marker",
        "correct": correct,
        "strict": correct,
        "error": None if correct else "wrong value",
        "completion_tokens": 20 + number,
        "finished": True,
    }
    return {**record, **changes}


def make_results(name, records, **changes):
    correct = sum(bool(record["correct"]) for record in records)
    results = {
        "task": "gsm8k",
        "name": name,
        "model": "tiny",
        "problems": len(records),
        "correct": correct,
        "accuracy": correct / len(records),
        "interval": [0.111, 0.222],
        "errors": {"wrong value": len(records) - correct},
        "unfinished": 0,
        "mean_completion_tokens": 31.5,
        "seconds": 12.0,
        "completion_tokens_per_second": 1234.0,
        "comparison": None,
    }
    return {**results, **changes}


def write_evaluation(stage, marks, *, label="gsm8k", finished=True, **changes):
    """Write an evaluate stage whose answers are right where ``marks`` says so."""
    records = [make_record(n, m, who=stage.name) for n, m in enumerate(marks, 1)]
    write_jsonl(stage / label / "records.jsonl", records)
    write_json(stage / label / "results.json", make_results(label, records, **changes))
    if finished:
        write_stage_json(stage, "evaluate", 30.0)


def write_task(folder, records):
    """Write a task folder with the given answers."""
    write_jsonl(folder / "records.jsonl", records)
    write_json(folder / "results.json", make_results(folder.name, records))


def write_stage_json(stage, kind, seconds, **summary):
    outcome = {
        "stage": kind,
        "name": stage.name,
        "digest": "ab" * 32,
        "seconds": seconds,
        "finished_at": f"2026-01-0{1 + int(seconds) % 7} 10:00:00",
        "peak_memory_bytes": 3 * 1024**3,
        "summary": summary,
    }
    write_json(stage / "stage.json", outcome)


def training_line(step, loss):
    return {
        "step": step,
        "epoch": step / 100,
        "loss": loss,
        "learning_rate": 1e-4 * (1 - step / 200),
        "grad_norm": 1.5,
        "token_accuracy": 1 - loss / 4,
        "entropy": loss,
        "tokens": 5000 * step,
        "trained_tokens": 1700 * step,
        "tokens_per_second": 4321.0,
        "trained_tokens_per_second": 1470.0,
        "seconds": 2.0 * step,
    }


def write_training(stage, steps=100, *, finished=True):
    lines = [training_line(step, 3 / (1 + step / 20)) for step in range(10, steps + 1, 10)]
    lines += [
        {"step": step, "validation_loss": 3.2 / (1 + step / 20), "validation_token_accuracy": 0.5}
        for step in range(50, steps + 1, 50)
    ]
    write_jsonl(stage / "metrics.jsonl", sorted(lines, key=lambda line: line["step"]))
    write_json(stage / "data" / "report.json", make_data_report())
    write_json(stage / "lineage.json", {"parent": "tiny", "seeds": {"run": 17}, "data": "cafe" * 8})
    if finished:
        summary = {
            "steps": steps,
            "tokens": 512_345,
            "trained_tokens": 170_115,
            "tokens_per_second": 4100.0,
            "trained_tokens_per_second": 1400.0,
            "loss_first": 3.1,
            "loss_last": 0.5,
            "trainable_parameters": 1_000_000,
            "total_parameters": 10_000_000,
            "weight_delta": 0.0123,
        }
        write_stage_json(stage, "sft", 200.0, **summary)


def make_data_report():
    return {
        "digest": "cafe" * 16,
        "sources": [
            {"path": "/data/train.jsonl", "format": "gsm8k", "evidence": "fields", "rows": 120}
        ],
        "rows_read": 120,
        "examples": {"train": 100, "validation": 8},
        "test_rows": 5,
        "rejects": {"too long": 4, "in an evaluation set": 3},
        "contamination": {
            "action": "drop",
            "matched_rows": 3,
            "evaluation_problems": 50,
            "training_rows": 120,
            "matches": {"prompt text": 3},
            "examples": [
                {
                    "training": "train.jsonl:7",
                    "evaluation": "test.jsonl:2",
                    "matched": "prompt text",
                }
            ],
        },
        "audit": [
            {"name": "at least one trained token", "checked": 108, "failures": 0, "examples": []}
        ],
        "tokens": 20_000,
        "trained_tokens": 7_000,
        "retokenized": 2,
        "length_tokens": {"mean": 185.2, "p50": 170.0, "p90": 300.0, "p99": 480.0, "max": 512},
        "length_histogram": {"counts": [3, 40, 50, 15], "edges": [10, 120, 250, 380, 512]},
        "longest": [["train.jsonl:9", 512]],
    }


def make_config(name, stages):
    return {
        "name": name,
        "model": {"path": "tiny"},
        "tuning": "lora",
        "lora": {"rank": 16},
        "stages": stages,
    }


@pytest.fixture
def build():
    """The functions above, which test modules cannot import."""
    return SimpleNamespace(
        make_config=make_config,
        make_record=make_record,
        training_line=training_line,
        write_evaluation=write_evaluation,
        write_json=write_json,
        write_jsonl=write_jsonl,
        write_stage_json=write_stage_json,
        write_task=write_task,
        write_training=write_training,
    )


@pytest.fixture
def run(tmp_path):
    """A finished run: base measured, trained, measured again."""
    folder = tmp_path / "runs" / "demo"
    write_json(
        folder / "config.json",
        make_config(
            "demo",
            [
                {"stage": "evaluate", "name": "before", "model_from": "base"},
                {"stage": "sft", "name": "sft", "learning_rate": 1e-4, "batch_tokens": 8192},
                {"stage": "evaluate", "name": "after", "compare_to": "before"},
            ],
        ),
    )
    write_json(
        folder / "environment.json",
        {
            "python": "3.11.7",
            "platform": "Linux",
            "cores": 4,
            "memory_bytes": 16 * 1024**3,
            "packages": {"torch": "2.13.0"},
            "compute": {"device": "cpu", "precision": "fp32", "threads": 4, "reason": "measured"},
        },
    )
    write_evaluation(folder / "before", [False] * 30 + [True] * 10)
    write_training(folder / "sft")
    comparison = {
        "other": "before",
        "difference": 0.425,
        "interval": [0.2501, 0.5702],
        "p_value": 0.00031,
        "wins": 19,
        "losses": 2,
        "total": 40,
    }
    marks = [False] * 11 + [True] * 27 + [False] * 2
    write_evaluation(folder / "after", marks, comparison=comparison)
    return folder
