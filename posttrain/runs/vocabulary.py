"""The command `extend-tokenizer`: where model and result are, and the printed table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.config.model import ModelConfig
from posttrain.config.recipe import stage_sources
from posttrain.config.vocabulary import ExtendTokenizerConfig
from posttrain.data.sources import check_source
from posttrain.errors import ConfigError
from posttrain.logs import say, show
from posttrain.reports.terminal import build_table, to_text
from posttrain.runs.find import find_latest_model


def extend_model(config: ExtendTokenizerConfig) -> Path:
    """Extend a model's vocabulary, and print what it is good for.

    Returns:
        The new model's folder.

    Raises:
        PosttrainError: See ``posttrain.vocabulary.extend.extend_tokenizer``.
    """
    from posttrain.vocabulary.extend import extend_tokenizer

    for source in stage_sources(config):
        if source.path is not None:
            check_source(source)
    model = ModelConfig(
        path=find_latest_model(config.model),
        tokenizer=config.tokenizer,
        trust_remote_code=config.trust_remote_code,
    )
    out = (config.out or Path("models") / f"{Path(config.model).name}-extended").absolute()
    _check_place(out, model)
    report = extend_tokenizer(config, model, out)
    show(render_vocabulary(report))
    say(f"model, tokenizer and vocabulary.json: {out}")
    show(
        "next: continued pretraining on the same text, for the new rows are only means of old ones"
    )
    return out


def _check_place(out: Path, model: ModelConfig) -> None:
    """Refuse to replace what is no earlier result of this command."""
    if Path(model.path).exists() and out.resolve() == Path(model.path).resolve():
        raise ConfigError(
            f"out={out}: is the model that is to be extended", hint="choose another folder"
        )
    ours = (out / "vocabulary.json").is_file()
    if out.exists() and not ours and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"out={out}: there is something else in this place", hint="choose another folder"
        )


def render_vocabulary(report: dict[str, Any]) -> str:
    """Write a report as tables: fertility before and after, and the tokens that save most."""
    sizes = build_table(report["measured_on"], "before", "after")
    domain = report["domain"]
    for label, unit in (("tokens per character", "characters"), ("tokens per word", "words")):
        sizes.add_row(label, *(_divide(domain[key], domain[unit]) for key in _TOKENS))
    sizes.add_row("bytes per token", *(_divide(domain["bytes"], domain[key]) for key in _TOKENS))
    sizes.add_row("tokens", *(f"{domain[key]:,}" for key in _TOKENS))
    sizes.add_row(
        "vocabulary",
        f"{report['base_tokens']:,}",
        f"{report['base_tokens'] + report['new_tokens']:,}",
    )
    sizes.add_row("rows of the model", f"{report['rows_before']:,}", f"{report['rows_after']:,}")
    control = report["control"]
    sizes.add_row(
        "control text: lines changed", "", f"{control['changed']:,} of {control['lines']:,}"
    )
    best = sorted((t for t in report["tokens"] if t["text"]), key=lambda t: -t["saves"])[:8]
    tokens = build_table("new token", "made of", "saves")
    for token in best:
        tokens.add_row(
            repr(token["text"])[1:-1],
            " + ".join(repr(piece)[1:-1] for piece in token["pieces"]),
            f"{token['saves']:,}",
        )
    return to_text(sizes, tokens)


_TOKENS = ("tokens_before", "tokens_after")


def _divide(count: int, by: int) -> str:
    return f"{count / by:.3f}" if by else "-"
