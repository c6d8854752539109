"""Data sets by name and how they spread over clients. Listing them needs no torch; loading does."""

from fedbonsai.data.info import DATASETS, SCHEMES, DatasetInfo, Defaults

__all__ = ["DATASETS", "SCHEMES", "DatasetInfo", "Defaults"]
