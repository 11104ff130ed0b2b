"""What is due when, and how the last run of each ended, asked of the Prefect server without importing Prefect."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from components.errors import TemperError
from flows.schedules import Planned

TIMEOUT_S = 10.0
BUSY_WAITS_S = (0.5, 1.0, 2.0, 4.0)  # with SQLite the server refuses with 503 what comes while it writes much


@dataclass(frozen=True)
class Entry:
    """A deployment; times are ISO 8601 in UTC, empty for none."""

    name: str
    schedule: str
    due: str
    last: str  # when the last run began
    state: str
    message: str


def ask(address: str, auth: str, call: str, body: Mapping[str, Any] | None = None) -> Any:
    """One question to a Prefect API. Raises TemperError that names the address if it does not answer, or not us."""
    headers = {"Content-Type": "application/json"}
    if auth:
        headers["Authorization"] = f"Basic {base64.b64encode(auth.encode()).decode()}"
    data = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(f"{address}{call}", data, headers)  # noqa: S310  # the user's own server
        for wait_s in (*BUSY_WAITS_S, None):
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503 or wait_s is None:
                    raise
                time.sleep(wait_s)
    except urllib.error.HTTPError as error:
        raise TemperError(f"Prefect server {address}: {call} was answered with {error.code} {error.reason}") from None
    except (OSError, ValueError) as error:
        raise TemperError(
            f"Prefect server {address} does not answer ({error}); start it, or unset PREFECT_API_URL to do without"
        ) from None


def entries(address: str, auth: str) -> list[Entry]:
    """Every deployment of Temper's."""
    tagged = {"deployments": {"tags": {"all_": ["temper"]}}}
    found = []
    for deployment in ask(address, auth, "/deployments/filter", tagged | {"sort": "NAME_ASC"}):
        crons = [entry["schedule"] for entry in deployment["schedules"] if entry["active"]]
        one = {"deployments": {"id": {"any_": [deployment["id"]]}}, "limit": 1}
        due = _runs(address, auth, one, {"type": {"any_": ["SCHEDULED"]}}, "EXPECTED_START_TIME_ASC")
        open_or_over = {"type": {"not_any_": ["SCHEDULED"]}}
        last = _runs(address, auth, one, open_or_over, "EXPECTED_START_TIME_DESC")
        found.append(
            Entry(
                name=deployment["name"],
                schedule=", ".join(f"{cron.get('cron', '')} {cron.get('timezone') or ''}".strip() for cron in crons),
                due=due[0]["expected_start_time"][:19] if due else "",
                last=(last[0]["start_time"] or last[0]["expected_start_time"])[:19] if last else "",
                state=last[0]["state_name"] if last else "",
                message=((last[0]["state"] or {}).get("message") or "") if last else "",
            )
        )
    return found


def missing_blocks(address: str, auth: str, planned: Sequence[Planned]) -> list[str]:
    """What `schedule.notify` names and Prefect does not have, each with whose it is."""
    missing = []
    for one in planned:
        for block in (one.schedule and one.schedule.notify) or []:
            kind, _, name = block.partition("/")
            try:
                ask(address, auth, f"/block_types/slug/{quote(kind)}/block_documents/name/{quote(name)}")
            except TemperError as error:
                if "404" not in str(error):
                    raise
                missing.append(f"{one.name}: nobody is told: Prefect has no block {block}; make it on its page Blocks")
    return missing


def _runs(address: str, auth: str, one: Mapping[str, Any], state: Mapping[str, Any], sort: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(
        address, auth, "/flow_runs/filter", {**one, "flow_runs": {"state": state}, "sort": sort}
    )
    return found
