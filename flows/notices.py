"""Who is told what, as automations of a Prefect server: a notification block, and what makes it speak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from flows.events import AUDITED, GATE_FAILED, LOOKED, SEEN, line_id
from neuronlens.errors import UserError

_SHORTEST = 10.0  # seconds that Prefect waits at least for what does not come


@dataclass(frozen=True)
class Schedule:
    """When a line is looked at.

    Attributes:
        line: its name.
        gap: seconds between two looks, at most.
    """

    line: str
    gap: float


def find_block(client: SyncPrefectClient, name: str) -> UUID:
    """Id of the notification block `BLOCK_TYPE/BLOCK_NAME`.

    Raises:
        UserError: there is none.
    """
    kind, _, own = name.partition("/")
    if not kind or not own:
        raise UserError(
            "is no name of a block", where=f"--notify {name}", cure="Write BLOCK_TYPE/BLOCK_NAME: slack-webhook/team."
        )
    try:
        block = client.read_block_document_by_name(own, kind)
    except ObjectNotFound:
        raise UserError(
            "no such block on this server", where=f"--notify {name}", cure="prefect block ls shows those there are."
        ) from None
    capabilities = block.block_schema.capabilities if block.block_schema else []
    if "notify" not in capabilities:
        raise UserError(
            "is a block that cannot notify", where=f"--notify {name}", cure="Name one of Slack, e-mail, a webhook."
        )
    return block.id


def automations(
    block: UUID, flows: Sequence[str], within: float, schedule: Schedule | None = None
) -> list[AutomationCore]:
    """What is notified through a block.

    Args:
        flows: names of the flows whose runs are ours.
        within: seconds in which a checkpoint that was seen has to be audited.
        schedule: of the line whose looks are missed; none is where None.
    """
    run = {"prefect.resource.role": "flow", "prefect.resource.name": [*flows]}
    made = [
        _automation(
            "neuronlens: a gate failed",
            "A gate failed and was not waived.",
            _at_once([GATE_FAILED], {"prefect.resource.id": "neuronlens.checkpoint.*"}),
            block,
            "NeuronLens: gate {{ event.payload.gate }} failed for {{ event.payload.checkpoint }} of {{ event.payload.line }}",
            "{{ event.payload.told }}. {{ event.payload.audit }}",
        ),
        _automation(
            "neuronlens: a run failed",
            "A run failed or crashed; also where a checkpoint could not be audited.",
            _at_once(
                [f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut")],
                {"prefect.resource.id": "prefect.flow-run.*"},
                run,
            ),
            block,
            "NeuronLens: {{ event.resource['prefect.resource.name'] }}: {{ event.resource['prefect.state-name'] }}",
            "{{ event.resource['prefect.state-message'] }}",
        ),
        _automation(
            "neuronlens: a checkpoint is not audited in time",
            "A checkpoint was seen, and no audit of it has ended since.",
            _missed([AUDITED], {"prefect.resource.id": "neuronlens.checkpoint.*"}, within, after=[SEEN]),
            block,
            "NeuronLens: {{ event.payload.checkpoint }} of {{ event.payload.line }} is not audited",
            "It was seen at {{ event.occurred }}: {{ event.payload.path }}",
        ),
    ]
    if schedule is not None:
        made.append(
            _automation(
                f"neuronlens: nobody looks at {schedule.line}",
                "A look that is due has not ended.",
                _missed([LOOKED], {"prefect.resource.id": line_id(schedule.line)}, schedule.gap + within),
                block,
                f"NeuronLens: nobody looks at {schedule.line}",
                "No look has ended in the time in which one is due. Does a worker run?",
            )
        )
    return made


def _at_once(expect: Sequence[str], match: Mapping[str, Any], related: Mapping[str, Any] | None = None) -> EventTrigger:
    return EventTrigger(
        type="event", posture=Posture.Reactive, expect={*expect}, match={**match}, match_related={**(related or {})}
    )


def _missed(expect: Sequence[str], match: Mapping[str, Any], seconds: float, after: Sequence[str] = ()) -> EventTrigger:
    """For every resource, where it waits `after` an event of that resource; else all the time."""
    return EventTrigger(
        type="event",
        posture=Posture.Proactive,
        expect={*expect},
        match={**match},
        after={*after},
        for_each={"prefect.resource.id"} if after else set(),
        within=timedelta(seconds=max(_SHORTEST, seconds)),
    )


def _automation(
    name: str, description: str, trigger: EventTrigger, block: UUID, subject: str, body: str
) -> AutomationCore:
    notify = SendNotification(type="send-notification", block_document_id=block, subject=subject, body=body)
    return AutomationCore(name=name, description=description, enabled=True, trigger=trigger, actions=[notify])


def register(client: SyncPrefectClient, wanted: Sequence[AutomationCore]) -> None:
    """Make automations that are not there, and those that are what is wanted; one that was paused stays so."""
    for automation in wanted:
        known = client.read_automations_by_name(automation.name)
        if known:
            client.update_automation(known[0].id, automation.model_copy(update={"enabled": known[0].enabled}))
        else:
            client.create_automation(automation)
