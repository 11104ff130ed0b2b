"""What Prefect is to run when: a deployment for params.yaml and for each preset, made from prefect.yaml."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.sorting import DeploymentSort
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from components.errors import TemperError
from flows import notify, schedules
from flows.retrain import retrain
from flows.schedules import Planned

FILE = Path("prefect.yaml")


def template(root: Path) -> dict[str, Any]:
    """The deployment of prefect.yaml. Raises TemperError for a file that is not as this needs it."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        said: dict[str, Any] = YAML(typ="safe", pure=True).load((root / FILE).read_text("utf-8"))["deployments"][0]
        ConcurrencyLimitConfig.model_validate(said["concurrency_limit"])
        said["work_pool"]["name"]
    except (OSError, YAMLError, KeyError, IndexError, TypeError, ValueError) as error:
        raise TemperError(f"{root / FILE}: has no deployment that can be used: {error}; restore it from git") from None
    return said


async def register(root: Path, planned: list[Planned]) -> list[Planned]:
    """Make or renew the work pool and the deployments; those of presets that are gone are removed.

    Returns those of which somebody is to be told through a block that Prefect does not have yet.
    """
    said = template(root)
    async with get_client() as client:
        await _pool(client, said["work_pool"]["name"])
        names = schedules.names(root)
        for one in planned:
            made = await _deployment(one, said, names)
            if await _version(client, one) != made.version:  # renewing takes what is due and not begun off the list
                await made.aapply(work_pool_name=said["work_pool"]["name"])
        await _remove_gone(client, {one.name for one in planned}, said["tags"])
    return await tell_of(planned)


async def tell_of(planned: list[Planned]) -> list[Planned]:
    """Renew who is told of these; returns those with a block missing. The schedules stay as they are."""
    missing = []
    async with get_client() as client:
        for one in planned:
            deployment = await client.read_deployment_by_name(f"{retrain.name}/{one.name}")
            if await notify.renew(client, one, deployment.id):
                missing.append(one)
    return missing


async def _pool(client: PrefectClient, name: str) -> None:
    pool = WorkPoolCreate(
        name=name, type="process", base_job_template=ProcessWorker.get_default_base_job_template(), description="Temper"
    )
    try:
        await client.create_work_pool(pool)
    except ObjectAlreadyExists:
        return


async def _deployment(one: Planned, said: dict[str, Any], names: list[str]) -> RunnerDeployment:
    schedule = one.schedule
    parameters: dict[str, Any] = {"preset": one.name}
    if schedule and schedule.stage_timeout_s:
        parameters["stage_timeout_s"] = schedule.stage_timeout_s
    made = await retrain.ato_deployment(
        one.name,
        schedules=[Cron(schedule.cron, timezone=schedule.timezone)] if schedule else [],
        parameters=said["parameters"] | parameters,
        concurrency_limit=ConcurrencyLimitConfig.model_validate(said["concurrency_limit"]),
        description=said["description"],
        tags=said["tags"],
        work_pool_name=said["work_pool"]["name"],
        job_variables=said["work_pool"]["job_variables"],
        entrypoint_type=EntrypointType.MODULE_PATH,
        version=hashlib.sha256(repr((one, said, names, parameter_schema(retrain))).encode()).hexdigest()[:12],
    )
    # The flow was read when this process began; presets may have come since.
    made._parameter_openapi_schema.properties["preset"]["enum"] = names
    return made


async def _version(client: PrefectClient, one: Planned) -> str | None:
    try:
        return (await client.read_deployment_by_name(f"{retrain.name}/{one.name}")).version
    except ObjectNotFound:
        return None


async def _remove_gone(client: PrefectClient, names: set[str], tags: list[str]) -> None:
    tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=tags))
    found = await client.read_deployments(deployment_filter=tagged, sort=DeploymentSort.NAME_ASC, limit=200)
    for deployment in found:
        if deployment.name not in names:
            await client.delete_deployment(deployment.id)


def main() -> int:
    """`python -m flows.deployments`: register all that params.yaml and the presets say with the server in
    PREFECT_API_URL. `prefect deploy` makes the one of prefect.yaml, and then fails: its client asks 3.8.8's server for
    workers in a way that this server refuses."""
    import asyncio
    import sys

    root = Path.cwd()
    try:
        planned = schedules.planned(root)
        missing = asyncio.run(register(root, planned))
    except TemperError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(f"registered: {', '.join(one.name for one in planned)}\n")
    for one in missing:
        sys.stderr.write(f"{one.name}: a block that its schedule names is not there; make it in Prefect's pages\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
