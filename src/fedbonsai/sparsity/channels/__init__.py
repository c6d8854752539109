"""Channels of any model: which go together, where they sit, and physically smaller models made of some of them."""

from fedbonsai.sparsity.channels.dead import shrink
from fedbonsai.sparsity.channels.extract import extract, units_by_width
from fedbonsai.sparsity.channels.groups import Attribute, Groups, trace
from fedbonsai.sparsity.channels.place import add_into, gather, scatter

__all__ = ["Attribute", "Groups", "add_into", "extract", "gather", "scatter", "shrink", "trace", "units_by_width"]
