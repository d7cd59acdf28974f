"""Whatever the other side sends becomes one of our failures, with what to do next; nothing else."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path

import pytest
import structlog
from aiohttp import web

from autoscaler.cloud.mkinf.client import MkinfClient
from autoscaler.cloud.mkinf.credentials import AccessKey
from autoscaler.cloud.mkinf.settings import BODY_CAP_BYTES, MkinfSettings
from autoscaler.cloud.mkinf.values import VmRequest
from autoscaler.cloud.secret import Secret
from autoscaler.errors import (
    AuthFailed,
    AutoscalerError,
    CloudUnavailable,
    ConfigError,
    EndpointMissing,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    OutOfStock,
    PaymentRequired,
    QuotaExceeded,
    Rejected,
    SchemaError,
)
from tests.cloud.answers import VM
from tests.cloud.scripted import KEY, Connect, FastClock, ScriptedMkinf, cut, serve, status

REQUEST = VmRequest("box-1", "l40s-48gb.1x", "us-east1-a", "ubuntu", "ssh-ed25519 AAAA me")


@pytest.mark.parametrize(
    ("code", "body", "failure"),
    [
        (400, {"code": "bad_request", "message": "no such type"}, Rejected),
        (400, {"code": "bad_request", "message": "type is out of stock"}, OutOfStock),
        (409, {"code": "out_of_stock", "message": ""}, OutOfStock),
        (400, {"code": "bad_request", "message": "Insufficient capacity in region"}, OutOfStock),
        (403, {"code": "forbidden", "message": "GPU quota exceeded: 8 of 8"}, QuotaExceeded),
        (403, {"status": 403, "message": "Forbidden"}, Forbidden),
        (402, {"message": "no card", "url": "https://pay.example/canary-url"}, PaymentRequired),
        (404, {"code": "not_found", "message": "no such project"}, NotFound),
        (409, {"code": "conflict", "message": "name is taken"}, OutcomeUnknown),
        (429, {"code": "too_many_requests", "message": "slow down"}, CloudUnavailable),
        (500, {"code": "internal_error", "message": "oops"}, OutcomeUnknown),
        (502, b"<html><head><title>502 Bad Gateway</title></head></html>", OutcomeUnknown),
        (504, b"upstream timed out", OutcomeUnknown),
        (404, b"<html>not here</html>", OutcomeUnknown),
        (302, b"", OutcomeUnknown),
        (501, {"status": 501, "message": "Not Implemented"}, EndpointMissing),
        (200, b"<html>welcome</html>", OutcomeUnknown),
        (200, b'{"operation": {"operation_id": "c1', OutcomeUnknown),
        (200, b"", OutcomeUnknown),
        (200, [], OutcomeUnknown),
        (200, {"operation": None}, OutcomeUnknown),
        (200, b"[" * 5000, OutcomeUnknown),
    ],
)
async def test_a_create_is_sent_once_and_its_refusal_says_what_to_do(
    code: int,
    body: object,
    failure: type[AutoscalerError],
    mkinf: ScriptedMkinf,
    client: MkinfClient,
) -> None:
    mkinf.on("POST P/vms", status(code, body))

    with pytest.raises(AutoscalerError) as caught:
        await client.create_vm(REQUEST)

    assert type(caught.value) is failure
    assert "canary-url" not in str(caught.value)
    assert len(mkinf.calls("POST P/vms")) == 1


async def test_a_create_whose_connection_drops_has_an_unknown_outcome(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("POST P/vms", cut)

    with pytest.raises(OutcomeUnknown):
        await client.create_vm(REQUEST)

    assert len(mkinf.calls("POST P/vms")) == 1


async def test_a_create_that_is_not_answered_in_time_has_an_unknown_outcome(
    mkinf: ScriptedMkinf, connect: Connect
) -> None:
    arrived = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        arrived.set()
        await asyncio.Event().wait()
        return web.Response()

    mkinf.on("POST P/vms", hang)

    with pytest.raises(OutcomeUnknown, match="timed out"):
        await connect(create_timeout_s=0.3).create_vm(REQUEST)

    assert arrived.is_set()


async def test_a_create_without_a_connection_did_not_happen(clock: FastClock) -> None:
    runner, port = await serve(web.Application())
    await runner.cleanup()
    settings = MkinfSettings(url=f"http://127.0.0.1:{port}/v0.1", project_id="p")

    async with MkinfClient(settings, AccessKey(Secret(KEY)), clock=clock) as client:
        with pytest.raises(CloudUnavailable, match="no connection"):
            await client.create_vm(REQUEST)


@pytest.mark.parametrize("code", [500, 502, 503, 504, 429, 408])
async def test_reading_is_repeated_until_it_works(
    code: int, mkinf: ScriptedMkinf, client: MkinfClient, clock: FastClock
) -> None:
    mkinf.on("GET P/vms", status(code), status(502, b"<html>"), {"items": [VM]})

    assert len(await client.vms()) == 1
    assert len(clock.slept) == 2
    assert 0.25 <= clock.slept[0] <= 0.5
    assert 0.5 <= clock.slept[1] <= 1.0


async def test_deleting_is_repeated_and_never_outcome_unknown(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("DELETE P/vms/v1", status(504))

    with pytest.raises(CloudUnavailable):
        await client.delete_vm("v1")

    assert len(mkinf.calls("DELETE P/vms/v1")) == 4


async def test_stop_is_repeated_and_reset_is_not(mkinf: ScriptedMkinf, client: MkinfClient) -> None:
    mkinf.on("PATCH P/vms/v1", status(500))

    with pytest.raises(CloudUnavailable):
        await client.act_on_vm("v1", "STOP")
    with pytest.raises(OutcomeUnknown):
        await client.act_on_vm("v1", "RESET")

    assert len(mkinf.calls("PATCH P/vms/v1")) == 4 + 1


@pytest.mark.parametrize("code", [400, 403, 404, 409, 501])
async def test_a_refusal_is_not_repeated(
    code: int, mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("DELETE P/vms/v1", status(code))

    with pytest.raises(Rejected):
        await client.delete_vm("v1")

    assert len(mkinf.calls("DELETE P/vms/v1")) == 1


async def test_a_long_retry_after_is_not_waited_for_but_told_and_nothing_more_is_sent(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("GET P/vms", status(429, Retry_After="120"))

    with pytest.raises(CloudUnavailable) as caught:
        await client.vms()
    with pytest.raises(CloudUnavailable, match="asked us to wait") as later:
        await client.specs()

    assert caught.value.retry_after_s == 120
    assert 100 < (later.value.retry_after_s or 0) <= 120
    assert len(mkinf.seen) == 1


async def test_a_redirect_is_not_followed_and_the_key_stays_here(
    mkinf: ScriptedMkinf, connect: Connect
) -> None:
    strangers: list[str] = []

    async def stranger(request: web.Request) -> web.Response:
        strangers.append(request.path)
        return web.json_response({"items": []})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", stranger)
    runner, port = await serve(app)
    mkinf.on("GET P/vms", status(307, b"", Location=f"http://127.0.0.1:{port}/vms"))

    with pytest.raises(CloudUnavailable, match="Redirects are not followed"):
        await connect(tries=1).vms()

    assert strangers == []
    await runner.cleanup()


async def test_proxies_of_the_environment_are_not_used(
    mkinf: ScriptedMkinf, client: MkinfClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    mkinf.on("GET P/vms", {"items": []})

    assert len(await client.vms()) == 0


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b"[" + b" " * BODY_CAP_BYTES + b"]"),
        ({"Content_Encoding": "gzip"}, gzip.compress(b"[" + b" " * BODY_CAP_BYTES * 4 + b"]")),
        ({"Content_Encoding": "gzip"}, gzip.compress(b'{"items": []}')[:-9]),
        ({"Content_Encoding": "gzip"}, b"not gzip"),
        ({"Content_Encoding": "br"}, b"\x0b\x02\x80[]\x03"),
    ],
    ids=["huge", "bomb", "cut gzip", "no gzip", "encoding not asked for"],
)
async def test_a_body_that_is_too_large_or_broken_is_no_answer(
    headers: dict[str, str], body: bytes, mkinf: ScriptedMkinf, connect: Connect
) -> None:
    mkinf.on("GET P/vms", status(200, body, **headers))

    with pytest.raises(CloudUnavailable, match="no whole answer"):
        await connect(tries=1).vms()


async def test_a_compressed_answer_is_read(mkinf: ScriptedMkinf, client: MkinfClient) -> None:
    body = gzip.compress(b'{"items": ["us-east1-a"]}')
    mkinf.on("GET P/locations", status(200, body, Content_Encoding="gzip"))

    assert await client.locations() == ("us-east1-a",)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"items": [{"id": "x"', "not JSON"),
        (b"<html><title>hi</title>", "not JSON but HTML"),
        ({"vms": []}, "GET /projects/{project_id}/vms: field items"),
        ({"items": "none"}, "field items"),
        (b"", "field items"),
        ([1], None),
        ({"code": "bad", "message": "an error with status 200"}, "field items"),
        ({"items": [], "next_page_token": 7}, "field next_page_token"),
    ],
)
async def test_a_list_that_is_none_is_named_with_endpoint_and_field(
    body: object, named: str | None, mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("GET P/vms", status(200, body))

    if named is None:
        assert not (await client.vms()).complete
        return
    with pytest.raises(SchemaError) as caught:
        await client.vms()
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"id": None}, "field id"),
        ({"id": ""}, "field id"),
        ({"name": ["x"]}, "field name"),
    ],
)
async def test_a_vm_without_what_identifies_it_is_named(
    change: dict[str, object], named: str, mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("GET P/vms/v1", {**VM, **change})

    with pytest.raises(SchemaError, match=named):
        await client.vm("v1")


@pytest.mark.parametrize(
    "change",
    [
        {"network_interfaces": None},
        {"network_interfaces": []},
        {"network_interfaces": [{"ips": []}]},
        {"network_interfaces": [{"ips": [{"public_ipv4": None}]}]},
        {"network_interfaces": [{"ips": [{"public_ipv4": {"address": ""}}]}]},
        {"network_interfaces": "none"},
        {"disks": {"a": 1}, "network_interfaces": [7]},
        {"created_at": "yesterday", "network_interfaces": None, "surprise": {"deep": []}},
        {"state": 7, "network_interfaces": None},
    ],
)
async def test_what_is_odd_in_a_vm_does_not_hide_it(
    change: dict[str, object], mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("GET P/vms", {"items": [{**VM, **change}]})

    listing = await client.vms()

    assert [vm.name for vm in listing] == ["as1-llama-7f3a9c"]
    assert listing.items[0].public_address is None
    assert listing.complete


async def test_an_ill_typed_field_is_logged_once_with_endpoint_and_field(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("GET P/vms/v1", {**VM, "created_at": "yesterday"})

    with structlog.testing.capture_logs() as logs:
        await client.vm("v1")
        await client.vm("v1")

    (problem,) = [each["problem"] for each in logs]
    assert problem.startswith("GET /projects/{project_id}/vms/{vm_id}: field created_at")


async def test_one_bad_item_hides_no_other_but_the_list_is_not_complete(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("GET P/vms", {"items": [None, VM, {"name": "no id"}, {**VM, "id": "b"}]})

    listing = await client.vms()

    assert [vm.id for vm in listing] == [VM["id"], "b"]
    assert not listing.complete
    assert len(listing.problems) == 2


@pytest.mark.parametrize(
    ("pages", "problem"),
    [
        ([{"items": [VM], "next_page_token": "a"}, {"items": [], "next_page_token": "a"}], "token"),
        ([{"items": [VM], "next_page_token": "a"}, {"items": [VM]}], "listed twice"),
        ([{"items": [VM], "next_page_token": "a"}, {"error": "gone"}], "field items"),
        ([{"items": [VM], "total": 5}], "total 5 and lists 1"),
    ],
)
async def test_pages_that_do_not_add_up_make_a_list_incomplete(
    pages: list[object], problem: str, mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("GET P/vms", *pages)

    listing = await client.vms()

    assert len(listing) == 1
    assert not listing.complete
    assert problem in listing.problems[0]


async def test_endless_pages_end(mkinf: ScriptedMkinf, client: MkinfClient) -> None:
    async def another(request: web.Request) -> web.StreamResponse:
        page = int(request.query.get("next_token", "0")) + 1
        return web.json_response({"items": [], "next_page_token": str(page)})

    mkinf.on("GET P/vms", another)

    listing = await client.vms()

    assert "more than 200 pages" in listing.problems[0]


@pytest.mark.parametrize(
    ("page", "doubt"),
    [
        ({"items": [VM], "cursor": "abc"}, "'cursor'"),
        ({"items": [{**VM, "id": str(each)} for each in range(50)]}, "50 items"),
    ],
)
async def test_a_hint_of_more_is_a_doubt(
    page: object, doubt: str, mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("GET P/vms", page)

    listing = await client.vms()

    assert listing.complete
    assert doubt in listing.doubts[0]


async def test_what_the_cloud_says_is_shown_short_and_on_one_line(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("GET P/vms/v1", status(400, {"message": "a\x1b[31m\nb" + "x" * 10_000}))

    with pytest.raises(Rejected) as caught:
        await client.vm("v1")

    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("vm_id", ["", ".", "..", "x" * 300])
async def test_an_id_that_would_change_the_path_is_not_sent(
    vm_id: str, mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    with pytest.raises(Rejected):
        await client.delete_vm(vm_id)

    assert mkinf.seen == []


async def test_an_id_with_slashes_stays_in_its_place(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    with pytest.raises(EndpointMissing):
        await client.delete_vm("../../disks/d1?x=1#y")

    (sent,) = mkinf.seen
    assert "/vms/" in sent.path


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://api.mkinf.io/v0.1", "only sent over https"),
        ("https://user:pass@api.mkinf.io/v0.1", "leave user and password out"),
        ("https://169.254.169.254/v0.1", "link-local"),
        ("https://api.mkinf.io/v0.1?key=1", "nothing more"),
        ("ftp://api.mkinf.io", "only sent over https"),
        ("https://", "nothing more"),
        ("https://[half", "not a URL"),
    ],
)
def test_an_url_that_would_show_the_key_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        MkinfSettings(url=url)

    assert "pass@" not in str(caught.value)


def test_a_ca_file_that_is_none_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "ca.pem"
    bad.write_text("nothing")

    with pytest.raises(ConfigError, match=r"ca\.pem"):
        MkinfClient(MkinfSettings(ca_file=bad), AccessKey(Secret("k")))


async def test_a_server_without_a_trusted_certificate_gets_no_request(
    untrusted_https: str, clock: FastClock
) -> None:
    settings = MkinfSettings(url=untrusted_https, project_id="p", tries=1)

    async with MkinfClient(settings, AccessKey(Secret(KEY)), clock=clock) as client:
        with pytest.raises(CloudUnavailable, match=r"(?i)certificate"):
            await client.vms()


async def test_a_server_whose_ca_is_given_is_trusted(
    untrusted_https: str, ca_file: Path, clock: FastClock
) -> None:
    settings = MkinfSettings(url=untrusted_https, project_id="p", ca_file=ca_file)

    async with MkinfClient(settings, AccessKey(Secret(KEY)), clock=clock) as client:
        assert (await client.vms()).complete


async def test_a_refused_key_is_not_tried_again_at_once(
    mkinf: ScriptedMkinf, client: MkinfClient, clock: FastClock
) -> None:
    mkinf.on("GET P/vms", status(401, {"status": 401, "message": "Unauthorized"}))

    for _ in range(5):
        with pytest.raises(AuthFailed):
            await client.vms()
    sent_at_first = len(mkinf.seen)
    clock.ahead_s += 1.1
    with pytest.raises(AuthFailed):
        await client.vms()

    assert (sent_at_first, len(mkinf.seen)) == (1, 2)
