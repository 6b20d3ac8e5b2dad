"""Optional packages: imported where they are needed, named where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from posttrain.errors import MissingExtraError


def require_extra(module: str, extra: str) -> Any:
    """Import a module that an extra of ours installs.

    Args:
        module: Dotted name.
        extra: Name in ``pip install 'posttrain[...]'``.

    Returns:
        The module.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module.partition('.')[0]} is not installed ({error})",
            hint=f"pip install 'posttrain[{extra}]'",
        ) from error
