"""Messages as bytes: `encode`, `decode`, `account`. Everything that comes in from outside is checked here."""

from fedbonsai.wire.codec import Account, Limits, account, decode, dense_length, encode

__all__ = ["Account", "Limits", "account", "decode", "dense_length", "encode"]
