"""Packages that only some data sets need."""

import importlib
from types import ModuleType

from fedbonsai.core.errors import ConfigError


def require(module: str) -> ModuleType:
    """Import a module that the ``[data]`` extra brings.

    Raises:
        ConfigError: It is not installed; the message names the extra.

    Examples:
        >>> require("no_such_reader")
        Traceback (most recent call last):
        fedbonsai.core.errors.ConfigError: this data set needs 'no_such_reader', which is not \
installed; run: pip install 'fedbonsai[data]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"this data set needs {module!r}, which is not installed; run: pip install 'fedbonsai[data]'"
        ) from error
