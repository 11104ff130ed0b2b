"""`temper key`: a new pair of keys to sign registered versions with."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from components import signing


def key(path: Path) -> None:
    """Make the pair and say where it goes. Raises TemperError rather than write over a file."""
    public, fingerprint = signing.make(path)
    console = Console(soft_wrap=True)
    for line in (
        f"key {fingerprint}: {path} signs and is secret, {public} verifies and is not; commit neither the first nor a "
        f"copy of it",
        f"export TEMPER_SIGNING_KEY={path.absolute()}   # where versions are made",
        f"export TEMPER_VERIFY_KEY={public.absolute()}   # where they are only opened",
        "policy: {signing: {required: true}} in params.yaml lets nothing unsigned be promoted or opened",
    ):
        console.print(Text(line))
