"""GGUF files for llama.cpp, by llama.cpp's own converter."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from posttrain.config.export import QuantizeSettings
from posttrain.errors import CheckpointError, ConfigError, MissingExtraError
from posttrain.export.publish import write_model

_SCRIPT = "convert_hf_to_gguf.py"


def find_converter(named: Path | None) -> Path:
    """Find llama.cpp's converter.

    Args:
        named: The script or its folder; ``$LLAMA_CPP_DIR`` where absent.

    Returns:
        The script.

    Raises:
        ConfigError: It is not where it is said to be.
        MissingExtraError: Nobody says where it is.
    """
    place = named or (Path(found) if (found := os.environ.get("LLAMA_CPP_DIR")) else None)
    if place is None:
        raise MissingExtraError(
            f"method=gguf needs {_SCRIPT} of llama.cpp, which no Python package installs",
            hint="get its source (github.com/ggml-org/llama.cpp) and set llama_cpp_converter=DIR "
            "or the environment variable LLAMA_CPP_DIR",
        )
    script = place / _SCRIPT if place.is_dir() else place
    if not script.is_file():
        raise ConfigError(
            f"{place}: there is no {_SCRIPT}",
            hint="give llama.cpp's source folder with llama_cpp_converter=DIR",
        )
    return script


def write_gguf(model: Any, tokenizer: Any, folder: Path, settings: QuantizeSettings) -> None:
    """Write ``model.gguf``, with config and tokenizer beside it so that it can be loaded here.

    Args:
        model: Whole.
        tokenizer: Its tokenizer.
        folder: Being built.
        settings: Number format, and where the converter is.

    Raises:
        CheckpointError: The converter refuses the model or its tokenizer.
    """
    script = find_converter(settings.llama_cpp_converter)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as scratch:
        write_model(model, tokenizer, Path(scratch))
        done = subprocess.run(
            [
                sys.executable,
                str(script),
                scratch,
                "--outfile",
                str(folder / "model.gguf"),
                "--outtype",
                settings.gguf_type,
            ],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise _explain(done.stderr)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _explain(complaint: str) -> CheckpointError:
    if "pre-tokenizer was not recognized" in complaint:
        return CheckpointError(
            "llama.cpp does not know this model's tokenizer, so it can have no GGUF file",
            hint="use method=nf4 or int8, or a newer llama.cpp",
        )
    last = next((line for line in reversed(complaint.splitlines()) if line.strip()), "no reason")
    return CheckpointError(
        f"llama.cpp's converter refuses the model: {last.strip()}",
        hint="use method=nf4 or int8, or another version of llama.cpp",
    )
