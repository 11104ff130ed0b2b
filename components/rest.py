"""Questions to an MLflow server by its REST interface, without importing MLflow (which takes seconds)."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from components.errors import TemperError

TIMEOUT_S = 5.0
PAUSES_S = (0.5, 1.5)  # before a question is asked again
AGAIN = {408, 429, 500, 502, 503, 504}  # what a server answers that may go well later
OTHERWISE = "unset MLFLOW_TRACKING_URI to track in mlruns/"


class Unanswered(TemperError):
    """A tracking server that is down, busy or answers what makes no sense: the same call may go well later."""


def get(where: str, call: str, part: str, **query: object) -> Any:
    """One GET of the server at `where`: `part` of its answer, all of it if empty; asked a few times.

    Raises LookupError if there is no such thing, Unanswered, or TemperError for what asking again does not mend.
    """
    for pause in PAUSES_S:
        try:
            return ask(where, call, part, query)
        except Unanswered:
            time.sleep(pause)
    return ask(where, call, part, query)


def pages(where: str, call: str, part: str, **query: object) -> Iterator[Mapping[str, Any]]:
    """The entries of all pages of a search."""
    token = ""
    while True:
        answer = get(where, call, "", max_results=1000, **query, **({"page_token": token} if token else {}))
        yield from answer.get(part, [])
        if not (token := answer.get("next_page_token", "")):
            return


def ask(where: str, call: str, part: str, query: Mapping[str, object]) -> Any:
    """As `get`, once."""
    import http.client
    import urllib.error
    import urllib.request

    url = f"{where}/api/2.0/mlflow/{call}?{urlencode(query)}"  # `registry.address` lets only http and https pass
    request = urllib.request.Request(url, headers=_credentials())  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            said = json.load(answer)
        return said[part] if part else said
    except urllib.error.HTTPError as error:
        if error.code == 404 and _says_that_there_is_none(error):
            raise LookupError(call) from None
        kind = Unanswered if error.code in AGAIN else TemperError
        raise kind(
            f"tracking server {where}: {call} was answered with {error.code} {error.reason}; look at its log, or "
            f"{OTHERWISE}"
        ) from None
    except (KeyError, TypeError, ValueError):
        raise Unanswered(
            f"tracking server {where}: {call} was answered with something else than MLflow's JSON; is it an MLflow "
            f"server? look at its log, or {OTHERWISE}"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise unreachable(where, error) from None


def probe(where: str) -> None:
    """One quick question, whether an MLflow server answers. Raises Unanswered."""
    import http.client
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"{where}/health", timeout=TIMEOUT_S) as answer:  # noqa: S310
            said = answer.read(100)
    except urllib.error.HTTPError as error:
        if error.code in AGAIN:
            raise unreachable(where, error) from None
        return  # it answers; whether it lets us in shows at the first call
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise unreachable(where, error) from None
    if said.strip() != b"OK":
        raise unreachable(where, "its page /health does not say OK, so it is no MLflow server")


def unreachable(where: str, error: object) -> Unanswered:
    told = error or type(error).__name__
    return Unanswered(f"tracking server {where} does not answer ({told}); start it, or {OTHERWISE}")


def _says_that_there_is_none(error: Any) -> bool:
    """MLflow's own 404, not that of a server which knows no such page: without a champion all would be promoted."""
    try:
        return bool(json.load(error)["error_code"] == "RESOURCE_DOES_NOT_EXIST")
    except (OSError, KeyError, TypeError, ValueError):
        return False


def _credentials() -> dict[str, str]:
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    if user:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    return {}
