import numpy as np
import pytest
import torch

from posttrain.models.attention import register_attention
from posttrain.models.attention.dense import dense_mask
from posttrain.models.attention.flex import BLOCK, find_blocks
from posttrain.models.attention.problems import PROBLEMS, attend, draw, solve


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_blocks_found_from_borders_are_those_of_the_mask(problem):
    mask = dense_mask(problem.table(), problem.window).numpy()
    blocks = -(-len(mask) // BLOCK)
    whole = np.zeros((blocks * BLOCK, blocks * BLOCK), dtype=bool)
    whole[: len(mask), : len(mask)] = mask
    tiles = whole.reshape(blocks, BLOCK, blocks, BLOCK)
    partial, full = find_blocks(problem.table(), problem.window)
    assert np.array_equal(full, tiles.all((1, 3)))
    assert np.array_equal(partial | full, tiles.any((1, 3)))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("problem", PROBLEMS[:-1], ids=lambda problem: problem.name)
def test_flex_equals_the_reference(problem):
    register_attention()
    inputs, _ = draw(problem, device="cpu", dtype=torch.float32)
    with torch.no_grad():
        plain = tuple(x.detach() for x in inputs)  # it has no backward pass here
        found = attend("flex", problem.table(), plain, problem.window)
    expected = solve("eager", problem, device="cpu", dtype=torch.float32).output
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
