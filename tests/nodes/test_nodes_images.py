"""Which image a node runs: pinned, fit for its driver, and the same on all nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.config_file import read_policy
from autoscaler.errors import ConfigError
from autoscaler.images import Image, parse_image, pinned
from autoscaler.nodes.startup.pins import ImagePins
from autoscaler.nodes.startup.presets import driver_note, needed_driver, presets, server_image
from autoscaler.policy import Engine
from tests.nodes.vm_parts import Kept, offer, policy, script

DIGEST = "ab" * 32
TAGGED = "lmsysorg/sglang:v0.4.6.post5-cu124"


@pytest.mark.parametrize(
    "image",
    ["vllm/vllm-openai", "vllm/vllm-openai:latest", "x/y:latest-gpu", "host:5000/x/y", "a:nightly"],
)
def test_an_image_that_may_be_another_tomorrow_is_refused_with_what_to_write(
    image: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.toml"
    file.write_text(f'schema = 1\nmodel = "a/b"\nengine = "vllm"\nserver.image = "{image}"\n')

    with pytest.raises(ConfigError) as refused:
        read_policy(file)

    assert str(refused.value).startswith(f"{file}:4: server.image: found '{image}'")
    assert "write a version's tag with its digest" in str(refused.value)
    assert "or leave server.image out" in str(refused.value)


@pytest.mark.parametrize(
    "image",
    [
        "",
        "A/b:1",
        "x y:1",
        "x:1 --privileged",
        "a/b@sha256:12",
        "a//b:1",
        "-a:1",
        "a:1\nb",
        "a" * 500,
    ],
)
def test_what_names_no_image_is_refused(image: str) -> None:
    with pytest.raises(ValueError, match="no name of a container image"):
        pinned(image)


names = st.from_regex(r"[a-z0-9]{1,8}(\.[a-z]{2,4}(:[0-9]{2,4})?/[a-z]{1,8})?", fullmatch=True)
tags = st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)


@given(name=names, tag=tags, digest=st.none() | st.from_regex("[0-9a-f]{64}", fullmatch=True))
def test_the_name_of_an_image_is_read_back_as_it_is_written(
    name: str, tag: str | None, digest: str | None
) -> None:
    image = Image(name, tag, digest)

    assert parse_image(str(image)) == image


def test_a_presets_driver_is_known_with_and_without_the_digest() -> None:
    for engine, kind in presets().items():
        for preset in kind:
            for image in preset.images.values():
                bare = str(Image(parse_image(image).repository, parse_image(image).tag, None))
                assert needed_driver(policy(engine, server={"image": image})) == preset.min_driver
                assert needed_driver(policy(engine, server={"image": bare})) == preset.min_driver


def test_every_default_preset_runs_with_the_driver_of_the_documented_image() -> None:
    for engine in presets():
        assert driver_note(policy(engine)) is None


def test_a_policy_is_told_beforehand_that_its_image_needs_a_newer_driver() -> None:
    newer = policy(server={"image": "vllm/vllm-openai:v0.10.2"})
    unknown = policy(server={"image": "mine/vllm:1"})

    assert "needs NVIDIA driver 570.26, and the documented VM image has 535" in str(
        driver_note(newer)
    )
    assert "runs there: vllm-0.8.5" in str(driver_note(newer))
    assert "set server.min_driver" in str(driver_note(unknown))


def test_machines_without_a_gpu_get_the_first_preset_that_has_an_image_for_them() -> None:
    model = policy("embedding", hardware={"gpus": False})

    chosen = server_image(model, offer(0)).image

    assert chosen is not None
    assert ":cpu-1.9.3@sha256:" in chosen


async def test_later_nodes_run_the_digest_that_the_first_node_pulled() -> None:
    store = Kept()
    pins = ImagePins(store)
    await pins.learn(TAGGED, DIGEST)
    await pins.learn(TAGGED, "cd" * 32)  # a moved tag changes nothing

    heir = ImagePins(store)
    await heir.load()
    chosen = server_image(policy(Engine.SGLANG), offer(), heir.known)
    text = script(policy(Engine.SGLANG), offer(), pins=heir.known).text

    assert chosen.image == f"{TAGGED}@sha256:{DIGEST}"
    assert f"IMAGE='{TAGGED}@sha256:{DIGEST}'" in text


async def test_an_image_named_with_its_digest_is_left_as_it_is() -> None:
    store = Kept()
    pins = ImagePins(store)

    await pins.learn(f"{TAGGED}@sha256:{DIGEST}", "cd" * 32)

    assert store.facts == {}
