"""Preference pairs of a model's own answers: written in chunks, gone on with after a stop."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from posttrain.config.model import ModelConfig
from posttrain.config.pairs import PairMaking, PairsConfig
from posttrain.data.sources import check_source
from posttrain.errors import ConfigError, DataError, InterruptedRunError
from posttrain.files import (
    digest_json,
    load_json,
    load_jsonl,
    write_errors,
    write_json,
    write_jsonl,
)
from posttrain.logs import Progress, say
from posttrain.runs.find import find_latest_model, identify_model
from posttrain.runtime import Compute, choose_compute

if TYPE_CHECKING:
    from posttrain.data.store import ExampleStore

SAME_WORTH = "all answers are worth the same"
NOT_FINISHED = "no answer that is worth more was finished"
ONE_TEXT = "fewer than two different answers with text"


@dataclass(frozen=True)
class Answer:
    """An answer and what it is worth."""

    text: str
    score: float
    finished: bool = True
    """Whether the model ended it, as against running out of room."""


def make_pairs(config: PairsConfig, command: str) -> None:
    """Make preference pairs; the command ``pairs``.

    Args:
        config: Settings.
        command: What to type to go on after a stop.

    Raises:
        PosttrainError: The data, the model or the place for the pairs cannot be used.
        InterruptedRunError: Ctrl-C; what is written so far is kept.
    """
    for source in config.data.sources:
        if source.path is None:
            raise ConfigError("data: the command takes files", hint="write data=FILE")
        if any(file.path == config.out for file in check_source(source)):
            raise ConfigError("out: is a file of the data", hint="give another out=FILE")
    if config.rewards.model_from:
        raise ConfigError(
            "rewards.model_from: names a stage, and there is no recipe",
            hint="give the reward model's folder: rewards.model=DIR",
        )
    model = ModelConfig(
        path=find_latest_model(config.model), trust_remote_code=config.trust_remote_code
    )
    wanted = config.compute
    compute = choose_compute(wanted.device, wanted.precision, wanted.threads)
    compute.apply()
    try:
        summary = write_pairs(config, model, config.out, compute)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            "interrupted; the answers so far are kept", hint=f"go on with: {command}"
        ) from None
    say(f"{summary['pairs']:,} pairs in {config.out}")


def write_pairs(
    settings: PairMaking, model: ModelConfig, out: Path, compute: Compute
) -> dict[str, Any]:
    """Let a model answer every prompt several times, and pair its best and worst answers.

    Args:
        settings: With the data's paths settled.
        model: Whose model.
        out: JSONL file; rows are ``prompt``, ``chosen``, ``rejected`` and ``metadata`` with
            ``chosen_score``, ``rejected_score`` and the prompt's ``origin``. Beside it a file
            ``.report.json``, and ``.part`` until all is done.
        compute: Where.

    Returns:
        The report: ``prompts``, ``pairs``, ``left_out`` (reason -> prompts), ``answers``,
        ``mean_worth``, and the mean of each part of the worth.

    Raises:
        DataError: The data cannot be used, or no prompt gives a pair.
        ConfigError: ``out`` holds something else, or another process is writing there.
        CheckpointError: The model cannot be loaded.
    """
    with write_errors(out, "out=FILE"):
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out.with_name(f".{out.name}.lock"), timeout=0):
            return _write_missing(settings, model, out, compute)
    except Timeout:
        raise ConfigError(
            f"{out}: another process is writing there", hint="wait for it, or give another out="
        ) from None


def _write_missing(
    settings: PairMaking, model: ModelConfig, out: Path, compute: Compute
) -> dict[str, Any]:
    from posttrain.data.prepare import prepare_data
    from posttrain.models.load import load_tokenizer
    from posttrain.training.data import describe_data

    tokenizer = load_tokenizer(model)
    data = prepare_data(settings.data, tokenizer)
    describe_data(data)
    ignored = {"data", "out", "compute", "model", "name", "stage"}
    basis = settings.model_dump(mode="json", exclude=ignored)
    digest = digest_json([basis, data.digest, identify_model(model), compute.precision])
    if (done := _load_report(out, digest)) is not None:
        say(f"{out} is there already")
        return done
    # Answers to one prompt are written in one batch where it has room for them.
    size = max(1, settings.batch_size // settings.completions)
    chunks = [range(i, min(i + size, len(data.train))) for i in range(0, len(data.train), size)]
    part = out.with_name(f"{out.name}.part")
    lines = _load_part(part, digest)
    if lines:
        say(f"{len(lines):,} of {len(chunks):,} chunks are there already")
    else:
        with write_errors(part, "out=FILE"):
            part.write_text(json.dumps({"digest": digest}) + "\n", encoding="utf-8")
    missing = chunks[len(lines) :]
    for line in _answer_chunks(settings, model, tokenizer, data.train, missing, compute):
        lines.append(line)
        with (
            write_errors(part, "out=FILE"),
            part.open("a", encoding="utf-8", errors="backslashreplace") as file,
        ):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    report = _summarize(lines, settings, data.train, model)
    if not report["pairs"]:
        reasons = ", ".join(f"{n:,} × {reason}" for reason, n in report["left_out"].items())
        raise DataError(
            f"no prompt gave a pair of a better and a worse answer ({reasons})",
            hint="raise completions or temperature, set rewards.format, or take another model",
        )
    write_jsonl(out, (row for line in lines for row in line["rows"]))
    write_json(_report_file(out), {"digest": digest, **report})
    part.unlink()
    _say_report(report)
    return report


def _report_file(out: Path) -> Path:
    return out.with_suffix(".report.json")


def _load_report(out: Path, digest: str) -> dict[str, Any] | None:
    """Read the report of a finished file.

    Raises:
        ConfigError: The file is of something else.
    """
    if not out.exists():
        return None
    place = _report_file(out)
    found = load_json(place) if place.is_file() else {}
    if found.pop("digest", None) != digest:
        raise ConfigError(
            f"{out}: was made of another model, data or settings, or by something else",
            hint="give another out=, or remove the file",
        )
    return dict(found)


def _load_part(part: Path, digest: str) -> list[dict[str, Any]]:
    """Read the chunks of a stopped pass, and cut off a half-written last line.

    Raises:
        ConfigError: They are of other settings.
    """
    if not part.exists():
        return []
    text = part.read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    if not whole:
        return []
    if whole != text:
        with write_errors(part, "out=FILE"):
            part.write_text(whole, encoding="utf-8")
    try:
        header, *lines = load_jsonl(part)
    except ValueError:
        header, lines = {}, []
    if header != {"digest": digest}:
        raise ConfigError(
            f"{part}: is of a pass with another model, data or settings",
            hint="give another out=, or remove the file",
        )
    return lines


def _answer_chunks(
    settings: PairMaking,
    config: ModelConfig,
    tokenizer: Any,
    prompts: ExampleStore,
    chunks: Sequence[range],
    compute: Compute,
) -> Iterator[dict[str, Any]]:
    """Answer, grade and pair; each chunk has a seed of its own, so that stops do not matter."""
    from posttrain.generation.generator import GenerationOptions, write_all
    from posttrain.generation.local import TransformersGenerator, build_requests
    from posttrain.models.load import load_model
    from posttrain.training.rewards import Rewards

    if not chunks:
        return
    rewards = Rewards(settings.rewards, prompts, tokenizer, compute.device)
    model = load_model(config, attention="sdpa", dtype=compute.dtype).to(compute.device)
    generator = TransformersGenerator(model, tokenizer, batch_size=settings.batch_size)
    options = GenerationOptions(settings.max_new_tokens, settings.temperature)
    progress = Progress("pairs", sum(map(len, chunks)), "prompts")
    done = 0
    for chunk in chunks:
        numbers = [number for number in chunk for _ in range(settings.completions)]
        token_ids = [prompts.example(number)[0] for number in numbers]
        seed = int(digest_json([settings.seed, chunk.start])[:8], 16)
        requests = build_requests([ids.tolist() for ids in token_ids], seed)
        written = write_all(generator, requests, options, whole=True)
        worth, means = rewards.grade(token_ids, written, numbers)
        answers = [
            Answer(one.text, score, one.finished) for one, score in zip(written, worth, strict=True)
        ]
        yield _pair_chunk(settings, prompts, chunk, answers, means)
        done += len(chunk)
        progress.update(done)


def _pair_chunk(
    settings: PairMaking,
    prompts: ExampleStore,
    chunk: range,
    answers: Sequence[Answer],
    means: dict[str, float],
) -> dict[str, Any]:
    rows, left_out = [], Counter[str]()
    for place, number in enumerate(chunk):
        own = answers[place * settings.completions : (place + 1) * settings.completions]
        pairs = choose_pairs(own, settings.at_most_per_prompt)
        if isinstance(pairs, str):
            left_out[pairs] += 1
            continue
        note = prompts.notes[number]
        tools = {"tools": note["tools"]} if note.get("tools") else {}
        for chosen, rejected in pairs:
            metadata = {
                "chosen_score": chosen.score,
                "rejected_score": rejected.score,
                "origin": str(prompts.origin(number)),
            }
            rows.append(
                {
                    "prompt": note["prompt"],
                    **tools,
                    "chosen": chosen.text,
                    "rejected": rejected.text,
                    "metadata": metadata,
                }
            )
    worth = sum(answer.score for answer in answers) / len(answers)
    return {
        "prompts": len(chunk),
        "rows": rows,
        "left_out": dict(left_out),
        "means": {"worth": worth, **means},
    }


def choose_pairs(answers: Sequence[Answer], most: int) -> list[tuple[Answer, Answer]] | str:
    """Pair the best answers of a prompt with the worst.

    The chosen one must have been finished: training would put an end where there was none. Of
    answers that are worth the same the first written comes first, whatever its length. A text that
    was written twice counts once, and one without any text not at all.

    Args:
        answers: In the order in which they were written.
        most: Pairs wanted.

    Returns:
        Pairs (chosen, rejected), the clearest first; or the reason why there is none.
    """
    different: dict[str, Answer] = {}
    for answer in answers:
        known = different.get(answer.text)
        if answer.text.strip() and (known is None or known.score < answer.score):
            different[answer.text] = answer
    if len(different) < 2:
        return ONE_TEXT
    best = sorted((a for a in different.values() if a.finished), key=lambda a: -a.score)
    worst = sorted(different.values(), key=lambda a: a.score)
    pairs = [(a, b) for a, b in zip(best, worst, strict=False) if a.score > b.score]
    if not pairs:
        return SAME_WORTH if worst[0].score == worst[-1].score else NOT_FINISHED
    return pairs[:most]


def _summarize(
    lines: Sequence[dict[str, Any]], settings: PairMaking, prompts: ExampleStore, model: ModelConfig
) -> dict[str, Any]:
    left_out = sum((Counter(line["left_out"]) for line in lines), Counter[str]())
    names = lines[0]["means"] if lines else {}
    return {
        "model": model.path,
        "prompts": len(prompts),
        "answers": len(prompts) * settings.completions,
        "pairs": sum(len(line["rows"]) for line in lines),
        "left_out": dict(left_out.most_common()),
        **{
            f"mean_{name}": sum(line["means"][name] * line["prompts"] for line in lines)
            / len(prompts)
            for name in names
        },
    }


def _say_report(report: dict[str, Any]) -> None:
    say(
        f"pairs: {report['pairs']:,} of {report['prompts']:,} prompts; an answer is worth "
        f"{report['mean_worth']:.3g} on average"
    )
    for reason, count in report["left_out"].items():
        say(f"pairs:   {count:,} prompts left out: {reason}")
