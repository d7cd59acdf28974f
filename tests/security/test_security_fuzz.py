"""Whatever strangers send is read, or refused in words: the cloud, a policy's author, a node, a client."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.clock import SystemClock
from autoscaler.cloud.mkinf import values
from autoscaler.cloud.mkinf.client import MkinfClient
from autoscaler.cloud.mkinf.credentials import AccessKey
from autoscaler.cloud.mkinf.settings import MkinfSettings
from autoscaler.cloud.mkinf.transport import Request, Response
from autoscaler.cloud.secret import Secret
from autoscaler.errors import AutoscalerError, ConfigError
from autoscaler.gateway.framing import BadAnswer, Chunks, parse_head
from autoscaler.gateway.prompt import allowed_output, surely_too_long
from autoscaler.gateway.tokens import TokenMeter
from autoscaler.policy import Policy
from autoscaler.toml_file import parse_toml
from tests.world.files import toml

PROJECT = "4b1e7f80-7c53-4c43-8f0e-2a4d0c0f2b02"
KEY = "canary-access-key-77aa"

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
junk = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = (
    *("id", "name", "type", "location", "state", "disks", "network_interfaces", "ips", "size"),
    *(
        "operation_id",
        "operation",
        "metadata",
        "request",
        "result",
        "error",
        "quantity",
        "created_at",
    ),
    *(
        "product_name",
        "available",
        "gpus",
        "sources",
        "destination_ports",
        "public_ipv4",
        "address",
    ),
)
items = st.lists(st.dictionaries(st.sampled_from(FIELDS), junk, max_size=8) | junk, max_size=4)
answers = (
    items
    | junk
    | st.builds(
        lambda found, more: {"items": found, **more},
        items,
        st.dictionaries(st.text(max_size=12), junk, max_size=2),
    )
)
bodies = answers.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=200)


@given(
    body=bodies,
    status=st.sampled_from([200, 200, 200, 201, 204, 302, 400, 401, 403, 404, 409, 429, 500, 599]),
)
def test_no_answer_of_the_cloud_does_anything_but_be_read_or_refused(
    body: bytes, status: int
) -> None:
    asyncio.run(asked_for_everything(body, status))


async def asked_for_everything(body: bytes, status: int) -> None:
    async def send(request: Request) -> Response:
        return Response(status, {"content-type": "application/json"}, body)

    settings = MkinfSettings(
        url="http://127.0.0.1:9/v0.1", project_id=PROJECT, tries=1, requests_per_s=1e6
    )
    client = MkinfClient(
        settings, AccessKey(Secret(KEY)), send=send, clock=SystemClock(), rng=random.Random(0)
    )
    async with client:
        for call in (
            client.vms, client.operations, client.disks, client.specs, client.availabilities,
            client.firewall_rules, client.images, client.locations, client.organizations,
            lambda: client.vm("a"), lambda: client.operation("a"), lambda: client.delete_vm("a"),
            lambda: client.create_vm(REQUEST),
        ):  # fmt: skip
            said = ""
            try:
                await call()
            except AutoscalerError as exc:
                said = str(exc)
            assert KEY not in said
            assert said.isprintable()
            assert len(said) < 2000


REQUEST = values.VmRequest(
    name="as1-0example-a-1-m", type="a40.1x", location="us-east1-a", image="ubuntu22.04",
    ssh_public_key="ssh-ed25519 AAAA", startup_script="#!/bin/bash\n",
)  # fmt: skip

KEYS = [*Policy.model_fields, "modell", "schema"]


@given(
    wrong=st.dictionaries(st.sampled_from(KEYS), plain | st.lists(plain, max_size=2), max_size=4),
    tables=st.dictionaries(
        st.sampled_from(KEYS),
        st.dictionaries(
            st.sampled_from([*KEYS, "min", "max", "time", "args", "env", "port"]), plain, max_size=3
        ),
        max_size=3,
    ),
)
def test_no_value_in_a_policy_does_anything_but_hold_or_be_refused_with_its_key(
    wrong: dict[str, object], tables: dict[str, dict[str, object]]
) -> None:
    written = {"model": "org/chat-8b", "engine": "vllm", **_toml_only(wrong), **tables}
    text = toml({key: _toml_only(v) if isinstance(v, dict) else v for key, v in written.items()})
    said = "policies/x.toml"
    try:
        parse_toml(text, Path(said), Policy)
    except ConfigError as exc:
        said = str(exc)

    assert said.startswith("policies/x.toml")


def _toml_only(table: dict[str, object]) -> dict[str, object]:
    """What TOML can say at all: no null, no surrogates."""
    return {
        k: v
        for k, v in table.items()
        if v is not None and None not in (v if isinstance(v, list) else [])
    }


@given(
    st.binary(max_size=300) | st.binary(max_size=80).map(lambda tail: b"HTTP/1.1 200 OK\r\n" + tail)
)
def test_no_head_of_a_node_breaks_its_reader(data: bytes) -> None:
    try:
        head = parse_head(data)
    except BadAnswer:
        return
    assert not (head.is_chunked and head.length is not None)
    assert all(b"\r" not in value and b"\n" not in value for _, value in head.headers)


@given(
    st.lists(
        st.binary(max_size=40) | st.sampled_from([b"5\r\nabcde\r\n", b"0\r\n", b"\r\n"]),
        max_size=12,
    )
)
def test_no_chunks_give_more_than_came(pieces: list[bytes]) -> None:
    chunks, out = Chunks(), 0
    try:
        for piece in pieces:
            out += len(chunks.feed(piece))
    except BadAnswer:
        return
    assert out <= sum(map(len, pieces))


@given(
    st.dictionaries(
        st.sampled_from(["messages", "prompt", "input", "max_tokens", "n", "stream"]),
        junk,
        max_size=4,
    ),
    st.integers(0, 100),
)
def test_no_body_breaks_what_is_estimated_of_a_prompt(
    fields: dict[str, object], limit: int
) -> None:
    assert allowed_output(fields) >= 0
    found = surely_too_long(fields, 10_000, limit)
    assert found is None or found[1] > limit


@pytest.mark.parametrize("is_stream", [True, False])
@given(
    pieces=st.lists(
        st.binary(max_size=60)
        | st.sampled_from(
            [b"data: {}\n\n", b'data: {"usage":{"completion_tokens":', b"-1e999}}\n\n"]
        ),
        max_size=8,
    )
)
def test_no_answer_of_a_node_breaks_the_count_of_its_tokens(
    is_stream: bool, pieces: list[bytes]
) -> None:
    meter = TokenMeter(is_stream)
    for piece in pieces:
        assert meter.feed(piece) >= 0

    assert meter.output_tokens() >= 0
