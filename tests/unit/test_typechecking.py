"""The tests check types while they run: of every package, whichever checker does it."""

import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation
from jaxtyping import TypeCheckError

from fedbonsai.core.support import pack_bits
from fedbonsai.sparsity.masks import keep_top


def test_a_wrong_type_raises():
    with pytest.raises(BeartypeCallHintParamViolation):
        pack_bits("no tensor")


def test_a_wrong_shape_or_type_raises_where_shapes_are_annotated():
    with pytest.raises(TypeCheckError):
        keep_top(torch.ones(3, dtype=torch.int32), 1)
