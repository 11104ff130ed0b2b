"""Telling people how a scheduled run ended: Prefect's own automations, with the blocks that `schedule.notify` names."""

from __future__ import annotations

from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from flows.schedules import Planned

ENDED = ("Completed", "Failed", "Crashed", "TimedOut")
SUBJECT = "Temper: {{ deployment.name }}: {{ flow_run.state.name }}"
BODY = "{{ flow_run.name }}\n{{ flow_run.state.message }}\n{{ flow_run|ui_url }}"


async def renew(client: PrefectClient, one: Planned, deployment: UUID) -> list[str]:
    """Make the automation of one deployment anew; returns the blocks that Prefect does not have (yet)."""
    await client.delete_resource_owned_automations(f"prefect.deployment.{deployment}")
    named = {name: await _block(client, name) for name in (one.schedule and one.schedule.notify) or []}
    missing = [name for name, block in named.items() if block is None]
    blocks = [block for block in named.values() if block is not None]
    if not blocks:
        return missing
    await client.create_automation(
        AutomationCore(
            name=f"temper: tell of {one.name}",
            trigger=EventTrigger(
                expect={f"prefect.flow-run.{state}" for state in ENDED},
                match_related={"prefect.resource.id": f"prefect.deployment.{deployment}"},
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[SendNotification(block_document_id=block, subject=SUBJECT, body=BODY) for block in blocks],
            owner_resource=f"prefect.deployment.{deployment}",
        )
    )
    return missing


async def _block(client: PrefectClient, given: str) -> UUID | None:
    kind, _, name = given.partition("/")
    try:
        return (await client.read_block_document_by_name(name, kind)).id
    except ObjectNotFound:
        return None
