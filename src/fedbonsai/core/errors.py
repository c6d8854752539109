"""Every error that fedbonsai raises on purpose.

::

    FedbonsaiError
    |-- ConfigError       a setting, a name or a combination of them cannot be used
    |-- DataError         a data set is missing, corrupt or unfit
    |-- SupportError      a mask, an index list or a count does not fit its tensor
    |-- WireError         bytes from outside are not a valid message
    |   `-- UnknownSupport   a message refers to a support that this side does not hold
    |-- ClientError       one client could not do its work (the round goes on without it)
    |-- RoundError        a round could not be finished (nothing of it is applied)
    `-- CheckpointError   a checkpoint is damaged, belongs to another experiment, or cannot be written
"""


class FedbonsaiError(Exception):
    """Base of all errors raised on purpose; its message says what must hold, what was got, what to do."""


class ConfigError(FedbonsaiError, ValueError):
    """A setting, a name or a combination of them cannot be used."""


class DataError(FedbonsaiError):
    """A data set is missing, corrupt or unfit."""


class SupportError(FedbonsaiError, ValueError):
    """A mask, an index list or a count does not fit its tensor."""


class WireError(FedbonsaiError):
    """Bytes from outside are not a valid message."""


class UnknownSupport(WireError):  # noqa: N818 - named for what it says on the wire
    """A message refers to a support that this side does not hold; ask for the whole."""


class ClientError(FedbonsaiError):
    """One client could not do its work; the round goes on without it."""


class RoundError(FedbonsaiError):
    """A round could not be finished; nothing of it is applied."""


class CheckpointError(FedbonsaiError):
    """A checkpoint is damaged, belongs to another experiment, or cannot be written."""


def lookup(kind: str, name: str, known: "list[str] | tuple[str, ...]") -> str:
    """Return ``name`` when it is one of ``known``; otherwise raise the one error for unknown names.

    Args:
        kind: What is looked up, in words ("method", "data set").
        name: The name asked for.
        known: The names that exist.

    Raises:
        ConfigError: ``name`` is not known. The message lists what is, nearest first.

    Examples:
        >>> lookup("method", "fedavg", ["fedavg", "fedprox"])
        'fedavg'
        >>> lookup("method", "fedvag", ["fedprox", "fedavg"])
        Traceback (most recent call last):
        fedbonsai.core.errors.ConfigError: unknown method 'fedvag'; did you mean 'fedavg'? known: fedavg, fedprox
    """
    import difflib

    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    raise ConfigError(f"unknown {kind} {name!r}{hint} known: {', '.join(sorted(known))}")
