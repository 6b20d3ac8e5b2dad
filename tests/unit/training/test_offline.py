import pytest

from posttrain.config.load import build_recipe
from posttrain.training.offline import settle_compile

SFT = {"stage": "sft", "data": {"sources": [{"path": "/rows.jsonl"}]}}


@pytest.mark.parametrize(
    ("strategy", "wanted", "found"),
    [("ddp", "auto", "auto"), ("zero2", "auto", "auto"), ("zero3", "auto", False),
     ("zero3", True, True), ("ddp", False, False)],
)  # fmt: skip
def test_auto_never_puts_a_whole_model_where_it_is_shared_out(strategy, wanted, found):
    values = {"name": "r", "model": {"path": "tiny"}, "stages": [SFT]}
    values |= {"compute": {"compile": wanted}, "parallel": {"strategy": strategy}}
    assert settle_compile(build_recipe(values, (), "test")) == found
