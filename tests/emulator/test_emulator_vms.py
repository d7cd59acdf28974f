"""A VM's life as callers see it."""

from __future__ import annotations

from tests.emulator.rig import Rig


async def test_a_create_is_answered_at_once_and_ends_running(cloud: Rig) -> None:
    begun = await cloud.create()

    operation = begun.body["operation"]
    assert operation["state"] == "IN_PROGRESS"
    assert operation["result"] is None
    assert operation["completed_at"] == ""
    assert operation["metadata"]["request"]["name"] == "as1-llama-7f3a9c"

    await cloud.pass_s(30)

    ended = await cloud.operation(begun)
    vm = await cloud.vm(operation["metadata"]["id"])
    assert ended["state"] == "SUCCEEDED"
    assert ended["result"] == {
        "id": vm["id"],
        "name": "as1-llama-7f3a9c",
        "state": "STATE_RUNNING",
    }
    assert vm["state"] == "STATE_RUNNING"
