"""The checksum is CRC-32 whoever computes it."""

import importlib
import sys
import zlib

from hypothesis import given
from hypothesis import strategies as st

from fedbonsai.wire import checksum


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_it_is_the_checksum_of_zlib_block_by_block(blocks):
    value = 0
    for block in blocks:
        value = checksum.crc32(memoryview(block), value)
    assert value == zlib.crc32(b"".join(blocks))


def test_a_machine_without_the_quick_one_takes_that_of_zlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    try:
        assert importlib.reload(checksum).crc32 is zlib.crc32
    finally:
        monkeypatch.undo()
        importlib.reload(checksum)
