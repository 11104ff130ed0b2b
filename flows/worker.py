"""The runner of `temper up`: closes what is dead, registers what is due when, then takes runs from the work pool.

    python -m flows.worker     with PREFECT_API_URL and TEMPER_CHECKOUT in the environment

`prefect worker start --pool temper` does the last of these on any other machine.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

from components.errors import TemperError
from flows import schedules, server
from flows.parts import READY
from flows.schedules import Planned
from flows.workplace import root

FOLLOW_S = 10.0


def main() -> int:
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "5")
    server.configure()
    from flows import deployments, reconcile

    here = root()
    try:
        planned = schedules.planned(here)
        for name in reconcile.flow_runs():
            _say(f"closed {name}: its process was gone")
        reconcile.tracked_runs(here)
        asyncio.run(_work(here, planned, str(deployments.template(here)["work_pool"]["name"])))
    except TemperError as error:
        _say(str(error))
        return error.exit_code
    return 0


async def _work(here: Path, planned: list[Planned], pool: str) -> None:
    """Until SIGTERM, which ends the runs at work too."""
    from prefect.workers.process import ProcessWorker

    from flows import deployments

    missing = await deployments.register(here, planned)
    _say(f"registered {', '.join(one.name for one in planned)}")
    worker = ProcessWorker(
        work_pool_name=pool, name=f"temper on {socket.gethostname()}", create_pool_if_not_found=False
    )
    task = asyncio.create_task(worker.start(printer=lambda text: _say(READY if "started" in text else text)))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    follow = asyncio.create_task(_follow(here, planned, missing))
    try:
        await task
    except asyncio.CancelledError:
        _say("stopped")
    finally:
        follow.cancel()


async def _follow(here: Path, planned: list[Planned], missing: list[Planned]) -> None:
    """Register anew when a schedule changes, or while a block is missing that somebody may be making."""
    from flows import deployments

    said = ""
    while True:
        await asyncio.sleep(FOLLOW_S)
        try:
            now = schedules.planned(here)
            if now != planned:
                missing, planned = await deployments.register(here, now), now
                _say(f"schedules changed: registered {', '.join(one.name for one in planned)}")
            elif missing:
                missing = await deployments.tell_of(missing)
            said = ""
        except Exception as error:  # noqa: BLE001 - a file half written, a server that comes again: the worker goes on
            if str(error) != said:
                said = str(error)
                _say(f"schedules stay as they were: {said}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
