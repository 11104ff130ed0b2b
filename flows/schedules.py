"""What is to be retrained when: the section `schedule` of params.yaml and of each preset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from components import params
from components.errors import ParamsError
from components.params import Retraining
from flows import overlay, server

HERE = "params.yaml"  # names what is retrained in the checkout itself


@dataclass(frozen=True)
class Planned:
    """One thing to retrain; `preset` is None for params.yaml. Without a schedule it is started by hand only."""

    name: str
    preset: str | None
    schedule: Retraining | None


def names(root: Path) -> list[str]:
    """All that can be retrained there."""
    return [HERE, *overlay.names(root)]


def planned(root: Path) -> list[Planned]:
    """params.yaml and every preset. Raises ParamsError with one line for each schedule that cannot be.

    Only schedules are looked at: a preset may wait for its data.
    """
    found, wrong = [], []
    for preset in [None, *overlay.names(root)]:
        name = preset or HERE
        path = overlay.find(root, preset) if preset else root / HERE
        try:
            schedule = params.check_schedule(params.read(path))
            if schedule:
                wrong += [f"{path.relative_to(root)}: {line}" for line in _refused(schedule)]
            found.append(Planned(name, preset, schedule))
        except ParamsError as error:
            wrong += [f"{path.relative_to(root)}: {line.removeprefix(f'{path}: ')}" for line in error.errors]
    if wrong:
        raise ParamsError(wrong)
    return found


def _refused(schedule: Retraining) -> Iterator[str]:
    """What Prefect would not take."""
    server.configure()
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    try:
        CronSchedule(cron=schedule.cron, timezone="UTC")
    except ValidationError:
        yield (
            f"schedule.cron: must be a cron line of five fields (minute hour day month weekday) such as '0 3 * * *', "
            f"got {schedule.cron!r:.80}"
        )
    try:
        CronSchedule(cron="0 0 * * *", timezone=schedule.timezone)
    except ValidationError:
        yield (
            f"schedule.timezone: must be a name of the IANA list such as Europe/Berlin or UTC, "
            f"got {schedule.timezone!r:.80}"
        )
    for block in schedule.notify or []:
        if block.count("/") != 1 or not all(block.split("/")):
            yield f"schedule.notify: must name blocks as <type>/<name>, such as slack-webhook/team, got {block!r:.80}"
