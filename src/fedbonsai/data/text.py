"""Text as windows of tokens: each token of a window is predicted from those before it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from fedbonsai.core.errors import DataError
from fedbonsai.data.dataset import Dataset, token_numbers
from fedbonsai.data.files import find_folder, read_columns
from fedbonsai.data.info import DATASETS
from fedbonsai.learning.task import Pool

WINDOW = 40
"""Tokens in one window."""

VOCABULARY = "\n !$',-.0123456789:;?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz"
"""The characters of Shakespeare's plays; a token is a position in it."""

_TOKENS = np.zeros(128, dtype=np.uint8)
_TOKENS[np.frombuffer(VOCABULARY.encode(), dtype=np.uint8)] = np.arange(len(VOCABULARY))


def load_shakespeare(data_dir: Path | None = None) -> Dataset:
    """Load the plays; a client is a role, and every role keeps its last speeches for the test.

    Raises:
        ConfigError: A reader is not installed.
        DataError: The files are missing or damaged.
    """
    info, folder = DATASETS["shakespeare"], find_folder("shakespeare", data_dir)
    (train, roles), (test, _) = (_part(folder / f"{part}.parquet") for part in ("train", "test"))
    return Dataset(
        name=info.name,
        loss=info.loss,
        classes=info.classes,
        input_shape=(WINDOW,),
        train=as_pool(train),
        test=as_pool(test),
        defaults=info.defaults,
        natural=roles,
    )


def _part(path: Path) -> tuple[np.ndarray, np.ndarray]:
    roles, speeches = read_columns(path, "client_id", "text")
    return windows({role: encode(text) for role, text in join(speeches, roles).items()})


def encode(text: str) -> np.ndarray:
    """Characters of `VOCABULARY` to uint8 tokens.

    Raises:
        DataError: A character is not in it.

    Examples:
        >>> encode("A b").tolist()
        [21, 1, 50]
    """
    unknown = sorted(set(text) - set(VOCABULARY))
    if unknown:
        raise DataError(f"text must be made of {VOCABULARY!r}, got {''.join(unknown)!r}; clean it")
    return _TOKENS[np.frombuffer(text.encode("ascii"), dtype=np.uint8)]


def join(texts: Sequence[str], owners: Sequence[object]) -> dict[str, str]:
    r"""The texts of each owner in one, in their order, with a newline between two.

    Examples:
        >>> join(["To be", "Nay", "or not"], ["HAMLET", "BERNARDO", "HAMLET"])
        {'HAMLET': 'To be\nor not', 'BERNARDO': 'Nay'}
    """
    parts = defaultdict(list)
    for owner, text in zip(owners, texts, strict=True):
        parts[str(owner)].append(text)
    return {owner: "\n".join(own) for owner, own in parts.items()}


def windows(tokens: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Cut the tokens of each owner into windows that never cross to another owner.

    Two neighbours share one token: the last target of one is the first input of the next.

    Args:
        tokens: uint8 tokens by owner; a rest that fills no window is left out.

    Returns:
        The windows, ``(count, WINDOW + 1)``, and the owner of each, ``(count,)``.

    Raises:
        DataError: No owner has enough tokens for one window.
    """
    size = WINDOW + 1
    cut = {
        owner: np.lib.stride_tricks.sliding_window_view(own, size)[::WINDOW]
        for owner, own in tokens.items()
        if len(own) >= size
    }
    if not cut:
        raise DataError(f"a text must have {size} tokens in one piece to give a window, got fewer")
    owners = np.repeat(list(cut), [len(own) for own in cut.values()])
    return np.concatenate(list(cut.values())), owners


def as_pool(cut: np.ndarray) -> Pool:
    """Windows as inputs and, one token on, targets; both look into the same memory."""
    tokens = torch.from_numpy(cut)
    return Pool(tokens[:, :-1], tokens[:, 1:], token_numbers)
