"""Messages as bytes, at the information limit and safe against anything that comes in from outside."""

from fedbonsai.wire.decoder import decode
from fedbonsai.wire.encoder import encode
from fedbonsai.wire.limits import Limits
from fedbonsai.wire.shelf import seeded_support

__all__ = ["Limits", "decode", "encode", "seeded_support"]
