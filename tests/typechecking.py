"""The run-time type checkers of the tests: beartype, which takes an int for a float as PEP 484 and mypy do.

jaxtyping checks modules that have shapes in their annotations, and costs several times the work itself; beartype alone
checks all others, for next to nothing.
"""

from pathlib import Path
from pkgutil import iter_modules

from beartype import BeartypeConf, beartype
from beartype.claw import beartype_packages
from jaxtyping import install_import_hook

PACKAGE = Path(__file__).parents[1] / "src" / "fedbonsai"
SHAPED = ["fedbonsai.sparsity.masks", "fedbonsai.sparsity.updates"]
# Local variables may be annotated with names that are imported for mypy alone.
CONF = BeartypeConf(is_pep484_tower=True, claw_is_pep526=False)

check = beartype(conf=CONF)


def check_packages() -> None:
    """Have all that is imported of fedbonsai from now on check its types."""
    install_import_hook(SHAPED, "typechecking.check")
    # The tables of the methods are annotated with names that are imported for mypy alone.
    others = _inside("") | _inside("methods") | _inside("sparsity")
    beartype_packages(sorted(others - {"fedbonsai.methods", "fedbonsai.sparsity", *SHAPED}), conf=CONF)


def _inside(package: str) -> set[str]:
    """What lies directly in a package of fedbonsai."""
    prefix = f"fedbonsai.{package}." if package else "fedbonsai."
    return {prefix + one.name for one in iter_modules([str(PACKAGE / package)])}
