"""Tasks of lm-evaluation-harness on our models, with its results in the shape of ours.

Every task gets a folder like any other evaluation's, with a record for each problem, so that two
models are compared in pairs; the harness itself compares as if the problems were not the same.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from jinja2 import TemplateError

from posttrain.config.harness import HarnessConfig
from posttrain.errors import ConfigError, DataError
from posttrain.evaluation.export import describe_template, write_evaluation
from posttrain.evaluation.harness_results import read_results, read_scores
from posttrain.extras import require_extra
from posttrain.files import write_json, write_text
from posttrain.logs import Progress, say
from posttrain.models.load import settle_offline
from posttrain.models.trained_template import compare_templates, digest_template
from posttrain.runtime import find_package_versions, set_seed

EXTRA = "harness"
SUMMARY = "harness.json"
"""All scores of one evaluation; its tasks have a folder each beside it."""
# What broken task files and data lead to inside the harness, less what a broken machine does.
_MISTAKES = (
    AssertionError, AttributeError, ImportError, LookupError, OSError, TypeError, ValueError,
    TemplateError, yaml.YAMLError,
)  # fmt: skip
# Of the resampling behind a standard error that has no formula; the harness's own number.
_BOOTSTRAP_ROUNDS = 100_000


def load_tasks(config: HarnessConfig) -> dict[str, Any]:
    """Find the tasks and read their data.

    Args:
        config: Settings.

    Returns:
        What ``lm_eval.evaluate`` takes: ``tasks``, ``groups`` and ``group_map``.

    Raises:
        MissingExtraError: The harness is not installed.
        ConfigError: There is no such task, or one is wrongly set up.
        DataError: A task's data cannot be had.
    """
    check_tasks(config)
    settle_offline()
    from huggingface_hub import constants

    datasets = require_extra("datasets", EXTRA)
    # A copy, made when `datasets` was imported.
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE
    datasets.disable_progress_bars()
    own = _open_folder(config.tasks_folder) if config.tasks_folder else None
    if own is not None and all(own.match_tasks([name]) for name in config.tasks):
        # Reading the harness's own list of 14,000 tasks takes seconds.
        loaded = _load_named(own, config)
    else:
        say("harness: reading the list of its tasks")
        manager = require_extra("lm_eval.tasks", EXTRA).TaskManager
        folder = config.tasks_folder
        loaded = _load_named(manager(include_path=str(folder) if folder else None), config)
    for task in loaded["tasks"].values():
        _set_up(task, config)
    return loaded


def _open_folder(folder: Path) -> Any:
    """List the tasks of a folder, and of it alone."""
    manager = require_extra("lm_eval.tasks", EXTRA).TaskManager
    return manager(include_path=str(folder), include_defaults=False)


def check_tasks(config: HarnessConfig) -> None:
    """Look at what can be looked at quickly: the harness itself, and task files of one's own.

    Raises:
        MissingExtraError: The harness is not installed.
        ConfigError: A task file cannot be read; the harness itself would pass over it.
    """
    require_extra("lm_eval", EXTRA)
    folder = config.tasks_folder
    if folder is None:
        return
    files = sorted(folder.glob("**/*.yaml"))
    if not files:
        raise ConfigError(
            f"harness.tasks_folder {folder}: no task files (*.yaml) in it",
            hint="give the folder of your task files",
        )
    for file in files:
        try:
            yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{file}:{mark.line + 1}" if mark else str(file)
            raise ConfigError(
                f"{where}: cannot be read: {getattr(error, 'problem', None) or error}",
                hint="mend the task file",
            ) from None


def _load_named(manager: Any, config: HarnessConfig) -> dict[str, Any]:
    loaded: dict[str, Any] = {"tasks": {}, "groups": {}, "group_map": {}}
    for wanted in config.tasks:
        names = manager.match_tasks([wanted])
        if not names:
            near = difflib.get_close_matches(wanted, manager.all_tasks, n=3, cutoff=0.6)
            raise ConfigError(
                f"harness: no task, group or tag `{wanted}`",
                hint=f"did you mean {' or '.join(f'`{n}`' for n in near)}?"
                if near
                else "its own are listed by `lm_eval ls tasks`; for tasks of yours give "
                "harness.tasks_folder=DIR",
            )
        for name in names:
            for key, found in _load_one(manager, name).items():
                loaded[key] |= found
    return loaded


def _load_one(manager: Any, name: str) -> dict[str, Any]:
    try:
        return dict(manager.load([name]))
    except OSError as error:  # ConnectionError and FileNotFoundError among them
        raise DataError(
            f"harness task `{name}`: its data cannot be had: {_first_line(error)}",
            hint="without a network fill the cache of `datasets` first (HF_HOME), or name files "
            "of this machine in a task of your own (harness.tasks_folder)",
        ) from error
    except _MISTAKES as error:
        raise ConfigError(
            f"harness task `{name}`: cannot be set up: {_first_line(error)}",
            hint="mend its task file",
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    if text:
        return text.splitlines()[0]
    frame = traceback.extract_tb(error.__traceback__)[-1]  # an assertion without words
    return f"`{frame.line}` failed ({Path(frame.filename).name}:{frame.lineno})"


def _set_up(task: Any, config: HarnessConfig) -> None:
    """Lay our settings over a task's, as ``lm_eval.simple_evaluate`` does it."""
    written = task.get_config("output_type") == "generate_until"
    if written and config.max_new_tokens is not None:
        longest = {"max_gen_toks": config.max_new_tokens}
        task.set_config(key="generation_kwargs", value=longest, update=True)
    own = task.get_config("num_fewshot")
    if own is None or (config.num_fewshot is not None and own != 0):
        task.set_config(key="num_fewshot", value=config.num_fewshot or 0)
    task.set_fewshot_seed(seed=config.seed)


def evaluate_tasks(
    config: HarnessConfig,
    loaded: dict[str, Any],
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    model_name: str,
) -> dict[str, Any]:
    """Measure a model on tasks.

    Args:
        config: Settings.
        loaded: From ``load_tasks``.
        model: A causal model with transformers' own attention, with or without an adapter.
        tokenizer: Its tokenizer.
        folder: Gets a folder for each task, ``harness.json`` and ``report.md``.
        model_name: For the results.

    Returns:
        The contents of ``harness.json``: ``tasks`` (name -> results as in its ``results.json``),
        ``groups`` (name -> scores), ``versions``, ``settings`` and ``warnings``.

    Raises:
        ConfigError: A task cannot be run so.
    """
    harness = require_extra("lm_eval", EXTRA)
    if config.chat_template and not tokenizer.chat_template:
        raise ConfigError(
            f"model {model_name}: its tokenizer has no chat template",
            hint="set harness.chat_template=false",
        )
    used = digest_template(tokenizer) if config.chat_template else None
    template = compare_templates(model_name, used)
    set_seed(config.seed)
    started = time.perf_counter()
    wrapped = _wrap_model(config, model, tokenizer)
    with _hear_warnings() as warnings:
        try:
            found = harness.evaluate(
                wrapped,
                loaded,
                limit=config.limit,
                bootstrap_iters=_BOOTSTRAP_ROUNDS,
                system_instruction=config.system,
                apply_chat_template=config.chat_template,
                fewshot_as_multiturn=config.chat_template,
                confirm_run_unsafe_code=config.run_generated_code,
            )
        except _MISTAKES as error:
            raise ConfigError(
                f"harness: {_first_line(error)}", hint=_advise(error, ", ".join(loaded["tasks"]))
            ) from error
    about = {
        "task": "harness",
        "model": model_name,
        "settings": config.model_dump(mode="json", exclude={"tasks", "stage", "name"}),
        "template": template,
        "versions": {**find_package_versions(), **_harness_versions()},
        "seconds": time.perf_counter() - started,
    }
    return _write_results(folder, found, about, warnings)


def _advise(error: Exception, tasks: str) -> str:
    if "confirm_run_unsafe_code" in str(error):
        return (
            "it runs what the model writes; where that can do no harm: "
            "harness.run_generated_code=true"
        )
    if "len(continuation_enc) > 0" in _first_line(error):
        return (
            "the tokenizer merges the end of a prompt with its answer, which the harness cannot "
            "score; change harness.chat_template or the task's target_delimiter"
        )
    return f"mend the task file or its data; tasks of this evaluation: {tasks}"


@contextlib.contextmanager
def _hear_warnings() -> Iterator[list[str]]:
    """Say each warning of the harness once, in our words' place, and keep it for the results."""
    heard: list[str] = []

    class _Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = " ".join(record.getMessage().split())
            if line not in heard:
                heard.append(line)
                say(f"harness: {line}")

    logger, ear = logging.getLogger("lm_eval"), _Ear(logging.WARNING)
    logger.addHandler(ear)
    logger.propagate = False
    try:
        yield heard
    finally:
        logger.removeHandler(ear)
        logger.propagate = True


def _harness_versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("lm_eval", "datasets")}


def _wrap_model(config: HarnessConfig, model: Any, tokenizer: Any) -> Any:
    """Make the harness's model of ours, with our progress lines for its bars."""
    tasks = require_extra("lm_eval.api.task", EXTRA)
    HFLM = require_extra("lm_eval.models.huggingface", EXTRA).HFLM
    # Making requests is quick and has no switch for its bar.
    tasks.tqdm = partial(require_extra("tqdm", EXTRA).tqdm, disable=True)
    # It warns that a loaded model ignores settings of loading.
    logging.getLogger(HFLM.__module__).setLevel(logging.ERROR)
    # It would tie weights, which are tied; an adapter's rows stand where it looks for the whole.
    model.tie_weights = lambda *_args, **_kwargs: None
    wrapped = HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=config.batch_size,
        max_length=config.max_tokens,
    )
    del model.tie_weights
    logging.getLogger(HFLM.__module__).setLevel(logging.NOTSET)
    for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        setattr(wrapped, kind, _tell_progress(wrapped, getattr(wrapped, kind)))
    return wrapped


def _tell_progress(wrapped: Any, answer: Callable[..., Any]) -> Callable[[Sequence[Any]], Any]:
    def answer_aloud(requests: Sequence[Any]) -> Any:
        wrapped.set_cache_hook(_Counter(len(requests)))
        return answer(requests, disable_tqdm=True)

    return answer_aloud


class _Counter:
    """Stands where the harness puts finished answers into a cache."""

    def __init__(self, total: int) -> None:
        self._progress, self._done = Progress("harness", total, "requests"), 0

    def add_partial(self, *_answer: Any) -> None:
        self._done += 1
        self._progress.update(self._done)


def _write_results(
    folder: Path, found: Mapping[str, Any], about: dict[str, Any], warnings: Sequence[str]
) -> dict[str, Any]:
    tasks = {}
    for name, samples in found["samples"].items():
        summary, records = read_results(name, found, samples)
        tasks[name] = {**about, "name": name, **summary}
        write_evaluation(folder / name, tasks[name], records)
    groups = {name: read_scores(name, found) for name in found.get("groups") or {}}
    whole = {**about, "tasks": tasks, "groups": groups, "warnings": list(warnings)}
    write_text(folder / "report.md", build_summary(whole))
    write_json(folder / SUMMARY, whole)
    return whole


def build_summary(whole: Mapping[str, Any]) -> str:
    """Build ``report.md`` over all tasks.

    Args:
        whole: The contents of ``harness.json``.

    Returns:
        Markdown: every score of every task and group, versions and warnings.
    """
    lines = [f"# lm-evaluation-harness: {whole['model']}", ""]
    lines += [
        "| task | score | value | 95 % interval | better |",
        "| --- | --- | --- | --- | --- |",
    ]
    parts = [(n, task["scores"]) for n, task in whole["tasks"].items()]
    parts += [(f"{n} (group)", scores) for n, scores in whole["groups"].items()]
    for name, scores in parts:
        for key, score in scores.items():
            bounds = score["interval"]
            shown = f"{bounds[0]:.4g} to {bounds[1]:.4g}" if bounds else ""
            better = "higher" if score["higher_is_better"] else "lower"
            lines.append(f"| {name} | {key} | {score['value']:.4g} | {shown} | {better} |")
    lines += ["", describe_template(whole["template"])]
    versions = ", ".join(f"{name} {version}" for name, version in whole["versions"].items())
    lines += ["", f"Versions: {versions}"]
    lines += [f"Warning: {line}" for line in whole["warnings"]]
    return "\n".join(lines) + "\n"
