"""`temper verify` and `temper sign`: whether a registered version is as it was registered, and by whose word."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from components import package, params, registry, signing
from components.errors import TemperError


def verify(asked: str) -> None:
    """Check every file of a version. Raises TemperError that names what is wrong."""
    name = params.load().name
    number = registry.find(name, asked).version
    with package.verified(name, number) as found:
        said = f"version {number} of {name} is as it was registered: {len(found.files)} files, {found.signed}"
    Console(soft_wrap=True).print(Text(said))


def sign(asked: str) -> None:
    """Sign a version that is whole but unsigned, or signed by another key."""
    name = params.load().name
    number = registry.find(name, asked).version
    keys = signing.configured()
    if keys.private is None:
        raise TemperError(f"no private key is given; set TEMPER_SIGNING_KEY; {signing.MAKE}")
    package.sign(name, number, keys)
    Console(soft_wrap=True).print(Text(f"version {number} of {name} is signed by {keys.fingerprint} now"))
