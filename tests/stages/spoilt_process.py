"""``posttrain`` where one process of several meets a batch whose loss is NaN.

Started by a launcher as a script: ``spoilt_process.py RANK CALL ARGUMENTS``.
"""

import os
import sys
from typing import Any

import torch

from posttrain.cli.app import main


def spoil(rank: str, number: int) -> None:
    """Turn the embeddings of one batch of training into NaN, the number-th."""
    calls = 0

    def look(module: Any, arguments: Any, output: Any) -> Any:
        nonlocal calls
        if not isinstance(module, torch.nn.Embedding) or not torch.is_grad_enabled():
            return None
        calls += 1
        spoils = calls == number and os.environ["RANK"] == rank
        return output * float("nan") if spoils else None

    torch.nn.modules.module.register_module_forward_hook(look)


if __name__ == "__main__":
    spoil(sys.argv[1], int(sys.argv[2]))
    sys.argv[1:] = sys.argv[3:]
    main()
