"""`temper reproduce`: a version made again in a clean clone, and whether it came out the same to the bit."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from components import params, registry
from flows.drive import Stopped
from flows.reproduce import Result
from flows.reproduce import reproduce as make_again
from temper import workspace
from temper.progress import Progress


def reproduce(which: str, keep: bool, stage_timeout_s: float) -> int:
    """Returns the exit code; raises TemperError for a version that cannot be made again."""
    name = params.load().name
    version = registry.find(name, which)
    console = workspace.console()
    console.print(
        Text.assemble(
            (f"version {version.version} of {name}", "bold"), f": {version.tags.get('cell', '')}, from commit "
        )
        + Text(version.tags.get("git.commit", "unknown")[:12]),
        soft_wrap=True,
    )
    try:
        with Progress(console, {}, 1) as progress:
            result = make_again(version, name, progress, stage_timeout_s, keep)
    except Stopped as stopped:
        console.print(
            Text(f"stopped by {stopped}: `{workspace.command(f'reproduce {which}')}` goes on from here", "yellow")
        )
        return 128 + stopped.signal
    _tell(console, result, f"version {version.version}")
    return result.exit_code


def _tell(console: Console, result: Result, called: str) -> None:
    for stage, words in result.stages.items():
        style = "green" if words == "equal" else "yellow"
        console.print(Text.assemble((stage, "bold"), ": ", (words, style)), soft_wrap=True)
    for note in result.notes:
        console.print(Text(note, style="yellow"), soft_wrap=True)
    if result.equal:
        console.print(Text(f"bit-equal: {called} was made again with the digest {result.digest}", style="bold green"))
    else:
        console.print(Text(f"not bit-equal to {called}:", style="bold red"))
        for line in result.differences:
            console.print(Text(f"  {line}"), soft_wrap=True)
    if result.folder.exists():
        console.print(Text(f"the clone: {result.folder}", style="dim"), soft_wrap=True)
