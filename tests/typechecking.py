"""The run-time type checker of the tests: beartype, which takes an int for a float as PEP 484 and mypy do."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
