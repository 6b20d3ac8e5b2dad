"""``posttrain`` on a machine where memory ends above a number of tokens, in one process of several.

Started by a launcher as a script: ``short_of_memory.py TOKENS RANK FIRST_CALL ARGUMENTS``.
"""

import os
import sys
from typing import Any

import torch

from posttrain.cli.app import main


def shorten(tokens: int, rank: str, first_call: int) -> None:
    """Fail where more tokens are embedded in training, from some call on."""
    calls = 0

    def look(module: Any, arguments: Any) -> None:
        nonlocal calls
        if not isinstance(module, torch.nn.Embedding) or not torch.is_grad_enabled():
            return
        calls += 1
        if calls >= first_call and arguments[0].numel() > tokens and os.environ["RANK"] == rank:
            raise torch.OutOfMemoryError("a test's")

    torch.nn.modules.module.register_module_forward_pre_hook(look)


if __name__ == "__main__":
    tokens, rank, first_call = sys.argv[1:4]
    shorten(int(tokens), rank, int(first_call))
    sys.argv[1:] = sys.argv[4:]
    main()
