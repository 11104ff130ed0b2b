"""`temper verify` and `temper sign`: whether a registered version is as it was registered, and by whose word."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from components import package, params, registry, signing
from components.errors import TemperError


def verify(asked: str) -> None:
    """Check every file of a version. Raises TemperError that names what is wrong."""
    name, number = _number(asked)
    with package.verified(name, number) as found:
        said = f"version {number} of {name} is as it was registered: {len(found.files)} files, {found.signed}"
    Console(soft_wrap=True).print(Text(said))


def sign(asked: str) -> None:
    """Sign a version that is whole but unsigned, or signed by another key."""
    name, number = _number(asked)
    keys = signing.configured()
    if keys.private is None:
        raise TemperError(f"no private key is given; set TEMPER_SIGNING_KEY; {signing.MAKE}")
    package.sign(name, number, keys)
    Console(soft_wrap=True).print(Text(f"version {number} of {name} is signed by {keys.fingerprint} now"))


def _number(asked: str) -> tuple[str, int]:
    """(the model, the version) that a number or an alias means."""
    name = params.load().name
    aliases = registry.registered(name).aliases
    number = int(asked) if asked.isdecimal() else aliases.get(asked)
    if number is None:
        told = ", ".join(f"{alias} is {at}" for alias, at in aliases.items()) or "none is registered yet"
        raise TemperError(f"{name} has no version or alias {asked!r:.50} ({told})")
    return name, number
