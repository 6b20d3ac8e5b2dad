"""Panel Ship: put a model to use."""

from __future__ import annotations

from typing import Annotated

import typer

from posttrain.cli.arguments import Overrides, examples, typed_command

_PANEL = "Ship"


def add_commands(app: typer.Typer) -> None:
    """Register this panel's commands."""
    app.command(
        "chat",
        rich_help_panel=_PANEL,
        epilog=examples(
            "posttrain chat runs/demo",
            "posttrain chat models/Qwen3-0.6B temperature=0.7 system='Answer briefly.'",
            "echo 'What is 3 plus 4?' | posttrain chat runs/demo",
        ),
    )(chat)
    app.command(
        "serve",
        rich_help_panel=_PANEL,
        epilog=examples(
            "posttrain serve runs/demo",
            "posttrain serve models/Qwen3-0.6B port=0 max_tokens=1024 timeout_seconds=60",
            "POSTTRAIN_API_KEY=$KEY posttrain serve runs/demo host=0.0.0.0",
        ),
    )(serve)
    app.command(
        "extend-tokenizer",
        rich_help_panel=_PANEL,
        epilog=examples(
            "posttrain extend-tokenizer models/Qwen3-0.6B texts=medical.txt,notes.jsonl",
            "posttrain extend-tokenizer tiny texts=poems.txt new_tokens=500 out=models/tiny-poems",
            "posttrain extend-tokenizer models/Qwen3-0.6B tokens_file=terms.txt texts=medical.txt",
        ),
    )(extend_tokenizer)
    app.command(
        "generate-items",
        rich_help_panel=_PANEL,
        epilog=examples(
            "posttrain sample-data mcq --num 20 --out wishes.jsonl",
            "posttrain generate-items runs/demo requests=wishes.jsonl out=items.jsonl",
            "posttrain generate-items tiny requests=wishes.jsonl out=free.jsonl constrained=false",
        ),
    )(generate_items)
    app.command(
        "merge",
        rich_help_panel=_PANEL,
        epilog=examples(
            "posttrain merge runs/gsm8k/sft",
            "posttrain merge runs/gsm8k out=models/tuned dtype=bfloat16 test_prompt='Who are you?'",
            "posttrain merge adapters/mine base=models/Qwen3-0.6B out=models/mine",
        ),
    )(merge)
    app.command(
        "quantize",
        rich_help_panel=_PANEL,
        epilog=examples(
            "posttrain quantize runs/gsm8k method=nf4",
            "posttrain quantize models/tuned method=int8 data=test.jsonl max_loss_increase=0.05",
            "posttrain quantize models/tuned method=gguf llama_cpp_converter=llama.cpp",
        ),
    )(quantize)


def chat(
    model: Annotated[str, typer.Argument(help="A run, a model folder, a hub id, or `tiny`.")],
    overrides: Overrides = None,
) -> None:
    """Talk to a model; an empty line or Ctrl-D ends."""
    from posttrain.config.chat import ChatConfig
    from posttrain.config.load import build_settings
    from posttrain.runs.chat import chat_with

    chat_with(build_settings(ChatConfig, {"model": model}, overrides or []))


def serve(
    model: Annotated[
        str, typer.Argument(help="A run, a model or adapter folder, a hub id, or `tiny`.")
    ],
    overrides: Overrides = None,
) -> None:
    """Answer OpenAI's API over HTTP, and write multiple-choice items; Ctrl-C ends."""
    from posttrain.config.load import build_settings
    from posttrain.config.serving import ServeConfig
    from posttrain.runs.serve import serve_model

    serve_model(build_settings(ServeConfig, {"model": model}, overrides or []))


def extend_tokenizer(
    model: Annotated[str, typer.Argument(help="A run, a model folder, a hub id, or `tiny`.")],
    overrides: Overrides = None,
) -> None:
    """Add tokens learned from text to a model's vocabulary, and prove that nothing else changed."""
    from posttrain.config.load import build_settings
    from posttrain.config.vocabulary import ExtendTokenizerConfig
    from posttrain.runs.vocabulary import extend_model

    extend_model(build_settings(ExtendTokenizerConfig, {"model": model}, overrides or []))


def generate_items(
    model: Annotated[str, typer.Argument(help="A run, a model folder, a hub id, or `tiny`.")],
    overrides: Overrides = None,
) -> None:
    """Let a model write a multiple-choice item for each request of a file."""
    from posttrain.config.items import GenerateItemsConfig
    from posttrain.config.load import build_settings
    from posttrain.runs.items import generate_items

    settings = build_settings(GenerateItemsConfig, {"model": model}, overrides or [])
    generate_items(settings, typed_command())


def merge(
    model: Annotated[str, typer.Argument(help="An adapter's folder, or a run or stage of one.")],
    overrides: Overrides = None,
) -> None:
    """Make an adapter part of its base model, and prove that the result is what was trained."""
    from posttrain.config.export import MergeConfig
    from posttrain.config.load import build_settings
    from posttrain.runs.export import merge_model

    merge_model(build_settings(MergeConfig, {"model": model}, overrides or []))


def quantize(
    model: Annotated[str, typer.Argument(help="A run, a model folder, a hub id, or `tiny`.")],
    overrides: Overrides = None,
) -> None:
    """Make a model smaller and measure what that costs."""
    from posttrain.config.export import QuantizeConfig
    from posttrain.config.load import build_settings
    from posttrain.runs.export import quantize as quantize_model

    quantize_model(build_settings(QuantizeConfig, {"model": model}, overrides or []))
