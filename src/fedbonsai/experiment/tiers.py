"""Tiers of devices as they are written in an experiment: ``1, 0.5, 2 x parameters=1e5 memory_mb=8``."""

import re
from dataclasses import dataclass, field, fields

from fedbonsai.core.errors import ConfigError, lookup
from fedbonsai.core.tiers import Tiers
from fedbonsai.federated.method import Traits
from fedbonsai.learning.bench import Bench
from fedbonsai.learning.footprint import Limits, largest_width
from fedbonsai.sparsity.channels import grids_by_width

MOST = 100
_TIER = re.compile(r"(?:(?P<share>\S+)\s+x\s+)?(?P<words>\S.*)")


@dataclass(frozen=True)
class Tier:
    """One tier: a width, or limits that its width follows from.

    Attributes:
        share: Clients in it, relative to the other tiers.
        width: Share of every layer's units; None where ``limits`` decide.
        limits: What its devices can bear.
    """

    share: float = 1.0
    width: float | None = None
    limits: Limits = field(default_factory=Limits)


def parse(text: str) -> tuple[Tier, ...]:
    """Read tiers, separated by commas.

    Each is a width in (0, 1] or limits, blanks between them: ``parameters``, ``flops`` (training on one example),
    ``memory_mb``, or ``seconds`` of a round with ``gflops``. ``3 x`` before it gives it three times the clients.

    Raises:
        ConfigError: It cannot be read.

    Examples:
        >>> [(one.share, one.width, one.limits.flops) for one in parse("1, 3 x 0.25, flops=2e6")]
        [(1.0, 1.0, None), (3.0, 0.25, None), (1.0, None, 2000000.0)]
    """
    pieces = [one.strip() for one in text.split(",")]
    if len(pieces) > MOST:
        raise ConfigError(f"at most {MOST} tiers can be told apart, got {len(pieces)}")
    return tuple(_tier(one) for one in pieces)


def _tier(text: str) -> Tier:
    match = _TIER.fullmatch(text)
    if match is None:
        raise ConfigError(f"a tier is a width or limits, as in '1, 3 x 0.5, parameters=1e5', got {text!r}")
    share, words = _number(match["share"] or "1", text), match["words"].split()
    if len(words) == 1 and "=" not in words[0]:
        return Tier(share, _number(words[0], text))
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        found[lookup("limit of a device", name, [one.name for one in fields(Limits)])] = _number(value, text)
    return Tier(share, None, Limits(**found))


def _number(text: str, tier: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"a tier needs numbers, as in '3 x 0.5' or 'parameters=1e5', got {tier!r}") from None


def has_tiers(traits: Traits) -> bool:
    """Whether the size of what a method's clients train follows from their tiers."""
    return traits.submodels and traits.tiers


def make_tiers(text: str | None, traits: Traits, bench: Bench, *, redrawn: bool) -> Tiers:
    """The tiers of a run: those that were written, or those that suit the method.

    Raises:
        ConfigError: They cannot be read or borne, the model cannot be cut to them, or the method has no use for them.
    """
    if not has_tiers(traits) and (text is not None or redrawn):
        given = "redraw_tiers=true" if text is None else f"tiers={text}"
        raise ConfigError(f"{given} would not be used: the size of what clients train does not follow from tiers")
    if text is None:
        found = Tiers.equal(traits.widths, redrawn=redrawn)
    else:
        tiers = parse(text)
        widths = tuple(largest_width(bench, one.limits) if one.width is None else one.width for one in tiers)
        found = Tiers(widths, tuple(one.share for one in tiers), redrawn)
    for width in sorted({one for one in found.widths if one < 1 and has_tiers(traits)}):
        bench.smaller(grids_by_width(bench.channels, width))  # what cannot be cut says so before anybody trains
    return found
