"""Rows for new tokens in a model's embeddings and output layer.

Shapes: V rows, H hidden size.
"""

from __future__ import annotations

from typing import Any

from posttrain.vocabulary.bpe import ByteBpe


def grow_model(model: Any, bpe: ByteBpe, *, row_multiple: int) -> dict[str, Any]:
    """Give every new token a row: the mean of the rows of the tokens it stands for.

    Args:
        model: A transformers model, changed in place. Unused rows that it has are used first.
        bpe: The extended tokenizer.
        row_multiple: Rows are made up to a multiple of this where new ones are needed. Rows
            without a token get the mean of all rows, and so the mean logit.

    Returns:
        ``rows_before``, ``rows_after`` and ``tied``.
    """
    needed = bpe.first_new_id + len(bpe.added)
    before = model.get_input_embeddings().weight.shape[0]
    after = before if needed <= before else -(-needed // row_multiple) * row_multiple
    if after != before:
        model.resize_token_embeddings(after, mean_resizing=False)
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    tied = layers[0].weight is layers[1].weight
    fresh = range(max(before, needed), after)
    for layer in layers[:1] if tied else layers:
        _fill_rows(layer.weight.data, bpe, fresh)
        if getattr(layer, "bias", None) is not None:
            _fill_rows(layer.bias.data, bpe, fresh)
    return {"rows_before": before, "rows_after": after, "tied": tied}


def _fill_rows(matrix_VH: Any, bpe: ByteBpe, fresh: range) -> None:
    if fresh:
        matrix_VH[fresh.start :] = matrix_VH[: bpe.first_new_id].float().mean(0).to(matrix_VH.dtype)
    for id_, pieces in bpe.expand().items():
        matrix_VH[id_] = matrix_VH[list(pieces)].float().mean(0).to(matrix_VH.dtype)
