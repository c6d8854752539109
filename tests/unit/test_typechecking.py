"""The tests check types while they run: of every package, whichever checker does it."""

import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation
from jaxtyping import TypeCheckError
from typechecking import PACKAGE, SHAPED

from fedbonsai.core.layout import Layout
from fedbonsai.core.support import pack_bits
from fedbonsai.methods.fedavg import FedAvg
from fedbonsai.sparsity.budgets import uniform
from fedbonsai.sparsity.masks import keep_top


@pytest.mark.parametrize("function", [pack_bits, uniform, Layout, FedAvg().plan])
def test_a_wrong_type_raises_in_every_package(function):
    with pytest.raises(BeartypeCallHintParamViolation):
        function("no such thing")


def test_a_wrong_shape_or_type_raises_where_shapes_are_annotated():
    with pytest.raises(TypeCheckError):
        keep_top(torch.ones(3, dtype=torch.int32), 1)


def test_all_that_have_shapes_in_their_annotations_are_checked_for_them():
    files = {path for path in PACKAGE.rglob("*.py") if "jaxtyping" in path.read_text("utf-8")}
    assert {".".join(("fedbonsai", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in files} == set(SHAPED)
