"""Settings from text: ``--set key=value`` and TOML files, checked against what exists."""

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from fedbonsai.core.errors import ConfigError, lookup
from fedbonsai.experiment.config import Experiment
from fedbonsai.methods import method_class

METHOD_TABLE = "method_settings"


def parse_pairs(pairs: Sequence[str]) -> dict[str, str]:
    """Split ``key=value`` texts.

    Raises:
        ConfigError: One has no ``=``, or a key comes twice.

    Examples:
        >>> parse_pairs(["density=0.2", "lr=0.1"])
        {'density': '0.2', 'lr': '0.1'}
    """
    found: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"a setting must be written key=value, got {pair!r}")
        if key.strip() in found:
            raise ConfigError(f"a setting must be given once, got {key.strip()!r} twice")
        found[key.strip()] = value.strip()
    return found


def make_experiment(base: Mapping[str, Any], pairs: Mapping[str, Any]) -> Experiment:
    """Make an experiment from settings with known homes and ``--set`` pairs that are to find theirs.

    A key of ``pairs`` is looked up in the method, then in the experiment; ``method.key`` and ``experiment.key`` say
    which is meant when both have it.

    Args:
        base: Fields of `Experiment`; may hold ``method_settings``.
        pairs: Keys and values, the values possibly as text.

    Raises:
        ConfigError: A key is unknown (the message lists what is known) or ambiguous, or a value does not fit.
    """
    named = pairs.get("experiment.method", pairs.get("method", base.get("method", Experiment.method)))
    cls = method_class(str(named))
    own, general = fields_of(cls), fields_of(Experiment)
    general.pop(METHOD_TABLE)
    experiment = {key: value for key, value in base.items() if key != METHOD_TABLE}
    method = dict(base.get(METHOD_TABLE, {}))
    for key, value in pairs.items():
        scope, _, bare = key.rpartition(".")
        if scope not in ("", "method", "experiment"):
            raise ConfigError(f"a setting is method.key, experiment.key or key, got {key!r}")
        if not scope and bare in own and bare in general:
            raise ConfigError(f"{bare!r} is ambiguous; write method.{bare} or experiment.{bare}")
        homes = {"method": own, "experiment": general}.get(scope, own | general)
        lookup("setting", bare, sorted(homes))
        (method if bare in own and scope != "experiment" else experiment)[bare] = value
    checked = coerce(cls, method, f"{cls.name} setting")
    cls(**checked)
    everything: dict[str, Any] = coerce(Experiment, experiment, "setting") | {METHOD_TABLE: checked}
    return Experiment(**everything)


def coerce(cls: type, values: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Bring values, possibly texts, to the types of a dataclass's fields.

    Raises:
        ConfigError: A key is unknown or a value has the wrong type.
    """
    hints = fields_of(cls)
    result = {}
    for key, value in values.items():
        lookup(kind, key, sorted(hints))
        text = isinstance(value, str) and value.lower() in ("none", "null", "")
        try:
            result[key] = TypeAdapter(hints[key]).validate_python(None if text else value)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise ConfigError(f"{key}: {problem[0].lower()}{problem[1:]}, got {value!r}") from error
    return result


def fields_of(cls: type) -> dict[str, Any]:
    """The settings of a dataclass and their annotations."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def read_toml(path: Path) -> dict[str, Any]:
    """Read an experiment file: fields of `Experiment`, and a table ``[method_settings]``.

    Raises:
        ConfigError: It is missing, not valid TOML, or the method's settings are no table.
    """
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no experiment file {path}; give a data set by name or a TOML file that exists") from error
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} must be a TOML file; {error}") from error
    if not isinstance(found.get(METHOD_TABLE, {}), dict):
        raise ConfigError(f"{METHOD_TABLE} must be a table, [{METHOD_TABLE}], got {found[METHOD_TABLE]!r}")
    return found


def to_toml(experiment: Experiment) -> str:
    """Write an experiment so that `read_toml` gives it back; settings that are None are left out.

    Examples:
        >>> print(to_toml(Experiment(rounds=2, method_settings={"server_lr": 0.5})).splitlines()[-1])
        server_lr = 0.5
    """
    values = {key: value for key, value in experiment.as_dict().items() if value is not None and key != METHOD_TABLE}
    lines = [f"{key} = {_toml(value)}" for key, value in values.items()]
    own = {key: value for key, value in experiment.method_settings.items() if value is not None}
    if own:
        lines += ["", f"[{METHOD_TABLE}]", *(f"{key} = {_toml(value)}" for key, value in own.items())]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
    return repr(value)
