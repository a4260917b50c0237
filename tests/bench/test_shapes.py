"""Shapes of models: how many parameters, how many bytes a step reads."""

import pytest

from verlock.bench.shapes import SHAPES, Shape

TINY = Shape("tiny", 4, 8, 2, 2, 1, 10, tied=False)


def test_the_weights_of_a_tiny_model_by_hand():
    # head 2; q 4x4+4, k and v 2x4+2 each, o 4x4, mlp 3 times 4x8, two norms of 4
    layer = 20 + 2 * 10 + 16 + 96 + 8
    assert TINY.layer_parameters == 2 * layer
    assert TINY.parameters == 2 * layer + 4 + 2 * 40
    assert TINY.read_per_step == 2 * (2 * layer + 4 + 40)  # bytes; the embedding is looked up, not read
    assert TINY.kv_bytes == 2 * 2 * 1 * 2 * 2


def test_a_tied_output_layer_is_no_weight_of_its_own_and_is_read():
    tied = Shape("tied", 4, 8, 2, 2, 1, 10, tied=True)
    assert tied.parameters == TINY.parameters - 40 and tied.read_per_step == TINY.read_per_step
    assert [name for name, _ in tied.weights()] == [name for name, _ in TINY.weights()][:-1]


@pytest.mark.parametrize(("name", "millions"), [("0.5b", 494), ("1.5b", 1544), ("7b", 7616)])
def test_the_models_have_as_many_parameters_as_qwen2_says(name, millions):
    assert round(SHAPES[name].parameters / 1e6) == millions
