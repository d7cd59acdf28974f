"""The store's file is damaged, or an older one is put back: nothing is given up for it, and a person chooses."""

from __future__ import annotations

import shutil

import pytest

from tests.crash.crashes import Crashes

pytestmark = pytest.mark.e2e


async def test_after_a_damaged_file_and_an_older_copy_nothing_is_deleted_until_a_person_chooses(
    crashes: Crashes,
) -> None:
    there, state = crashes.world, crashes.world.directory / "state"
    await crashes.start()
    (node,) = await crashes.settled(1)
    (copy,) = (state / "backups").iterdir()  # made at the start, before there was a node
    await crashes.kill()
    store = state / "autoscaler.db"
    store.write_bytes(b"not a database any more" + store.read_bytes()[23:])
    for part in state.glob("autoscaler.db-*"):
        part.unlink()  # its newest pages would mend it

    await crashes.start()
    assert await there.exit_code("daemon") == 1, there.logs()
    unknown = await there.command("audit")

    assert "keep the file, restore a backup" in there.log_of("daemon")
    assert store.read_bytes().startswith(
        b"not a database any more"
    )  # nothing was made in its place
    assert unknown.code == 5, unknown
    assert (await there.ask()).node == node["name"]

    for path in state.glob("autoscaler.db*"):
        path.unlink()
    shutil.copy(copy, store)
    await crashes.start()

    async def is_held() -> bool:
        trouble = (await there.get("/api/v1/status"))["trouble"]
        return any("`autoscaler adopt`" in text for text in trouble)

    await there.until(is_held, "the sweep is held, and says what to do")
    orphans = await there.command("audit", "--json")
    assert orphans.code == 4, orphans
    assert "autoscaler adopt" in orphans.json["daemon"]["held"]
    assert await there.calls("delete_vm") == []
    assert (await there.ask()).node == node["name"]

    said = await there.command("adopt", "--yes")

    assert said.code == 0, said
    (again,) = await crashes.settled(1)
    assert again["machine_id"] == node["machine_id"]
    assert await there.created_names() == [node["name"]]
    assert await there.calls("delete_vm") == []
