"""Messages as bytes: at the information limit, at memory speed, safe against anything from outside.

`encode` and `decode` are what a run uses; `dumps` and `loads` are for use outside the library. The
format is in docs/wire-format.md.
"""

from fedbonsai.wire import feedback
from fedbonsai.wire.accounts import Account, account, account_of, dense_length
from fedbonsai.wire.decoder import Reader, decode, header, read_message
from fedbonsai.wire.encoder import Packed, encode, pack, seal
from fedbonsai.wire.frame import Frame, read_frame
from fedbonsai.wire.inspect import describe
from fedbonsai.wire.limits import Limits
from fedbonsai.wire.plain import dumps, loads
from fedbonsai.wire.shelf import seeded_support
from fedbonsai.wire.values import SETTINGS, is_exact

__all__ = [
    "SETTINGS",
    "Account",
    "Frame",
    "Limits",
    "Packed",
    "Reader",
    "account",
    "account_of",
    "decode",
    "dense_length",
    "describe",
    "dumps",
    "encode",
    "feedback",
    "header",
    "is_exact",
    "loads",
    "pack",
    "read_frame",
    "read_message",
    "seal",
    "seeded_support",
]
