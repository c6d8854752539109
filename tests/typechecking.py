"""The run-time type checkers of the tests: beartype, which takes an int for a float as PEP 484 and mypy do.

jaxtyping checks what has shapes in its annotations, and costs several times the work itself; beartype alone checks all
other packages, for next to nothing.
"""

from pathlib import Path
from pkgutil import iter_modules

from beartype import BeartypeConf, beartype
from beartype.claw import beartype_packages
from jaxtyping import install_import_hook

PACKAGE = Path(__file__).parents[1] / "src" / "fedbonsai"
SHAPED = ["fedbonsai.methods", "fedbonsai.sparsity"]
# Local variables may be annotated with names that are imported for mypy alone.
CONF = BeartypeConf(is_pep484_tower=True, claw_is_pep526=False)

check = beartype(conf=CONF)


def check_packages() -> None:
    """Have all that is imported of fedbonsai from now on check its types."""
    install_import_hook(SHAPED, "typechecking.check")
    others = {f"fedbonsai.{one.name}" for one in iter_modules([str(PACKAGE)])} - set(SHAPED)
    beartype_packages(sorted(others), conf=CONF)
