"""The scripts as text: what may stand in them, what shellcheck says, what is refused."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.domain.offer import Offer
from autoscaler.errors import ConfigError
from autoscaler.images import pinned
from autoscaler.nodes.startup import presets, render, replicas_of
from autoscaler.nodes.startup.quoting import quote
from autoscaler.policy import Engine, Policy
from tests.nodes.vm_parts import CONFIG, NONCE, offer, policy, script

HOSTILE = (
    "it's $HOME",
    "`id`",
    '"; rm -rf / #',
    "a\nb\\n",
    "~/x",
    "{a,b} *",
    "é ☃",
    "!! \x1b[31m",
    "",
)
TEMPLATES = Path(str(presets.__file__)).parent
ENGINES = tuple(Engine)
OFFERS = (offer(1), offer(4), offer(4, "a100-80gb-pcie"), offer(0))
words = st.lists(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=8
)


def policies(engine: Engine, on: Offer, directory: Path) -> list[Policy]:
    """This engine's policies with every option that a template looks at, off and on."""
    (directory / "serve.sh").write_text("exec my-server --port $AUTOSCALER_PORT\n")
    (directory / "token").write_text("hf_x\n")
    made = []
    for hostile, token, length in itertools.product((False, True), repeat=3):
        server: dict[str, object] = {"args": HOSTILE, "env": {"A": "x y"}} if hostile else {}
        if token:
            server["token_file"] = str(directory / "token")
        if length:
            server["max_model_len"] = 4096
        if engine is Engine.CUSTOM:
            server["script"] = str(directory / "serve.sh")
        elif not on.gpus:
            server["image"] = "registry.example/serve:1.2"
        degree = 2 if on.gpus > 1 else 1
        hardware = {"tensor_parallel": degree, "gpus": on.gpus > 0}
        made.append(policy(engine, server=server, hardware=hardware))
    return made


@pytest.mark.parametrize("engine", ENGINES)
def test_shellcheck_finds_nothing_in_any_script(engine: Engine, tmp_path: Path) -> None:
    assert shutil.which("shellcheck"), "apt-get install shellcheck"
    paths = []
    texts = set()
    for on in OFFERS:
        # below the assignments a script is its template: every option off, and every option on
        for model in policies(engine, on, tmp_path)[:: 7 if on.gpus == 1 else 8]:
            rendered = script(model, on)
            texts |= {rendered.text, rendered.shutdown}
    for index, text in enumerate(sorted(texts)):
        path = tmp_path / f"{index}.sh"
        path.write_text(text, encoding="ascii")
        paths.append(str(path))

    found = subprocess.run(
        ["shellcheck", "--shell=bash", *paths], capture_output=True, text=True, check=False
    )

    assert found.stdout == ""
    assert found.returncode == 0


@settings(max_examples=60, deadline=None)
@given(words=words)
def test_a_real_bash_reads_a_quoted_word_as_exactly_that_word(words: list[str]) -> None:
    words = [word.encode("utf-8", "replace").decode() for word in words]
    text = "printf '%s\\0' " + " ".join(quote(word) for word in words)
    assert text.isascii()

    seen = subprocess.run(["bash", "-c", text], capture_output=True, check=True)

    assert seen.stdout.split(b"\0")[:-1] == [word.encode() for word in words] or not words


def test_templates_hold_values_in_the_assignments_only() -> None:
    for path in TEMPLATES.glob("*.sh.j2"):
        places = [line for line in path.read_text().splitlines() if "<{" in line]
        assert places in ([], ["<{ name }>=<{ value }>"])
        assert "set -x" not in path.read_text()


def test_a_script_is_small_ascii_and_begins_as_the_cloud_wants_it(tmp_path: Path) -> None:
    model = policies(Engine.VLLM, offer(4), tmp_path)[-1]

    rendered = script(model, offer(4))

    assert rendered.text.startswith("#!/bin/bash\n")
    assert rendered.text.isascii()
    assert len(rendered.text) < 16_000
    assert rendered.ports == (8000, 8001)
    assert rendered.sha256 == script(model, offer(4)).sha256


def test_no_token_is_in_the_script_that_the_cloud_shows_to_every_key(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_canaryCanaryCanary")
    model = policy(server={"token_file": str(tmp_path / "token")})

    assert "hf_canary" not in script(model, offer()).text


def test_a_script_over_the_clouds_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big.sh").write_text("#" * 50_000)
    model = policy("custom", server={"script": str(tmp_path / "big.sh")})

    with pytest.raises(ConfigError, match="the cloud takes less than 64000"):
        script(model, offer())


def test_a_digest_pins_any_image() -> None:
    image = "vllm/vllm-openai@sha256:" + "0" * 64

    assert f"IMAGE='{image}'" in script(policy(server={"image": image}), offer()).text


def test_no_preset_moves_and_each_says_its_driver() -> None:
    for kind in presets.presets().values():
        for preset in kind:
            assert preset.checked in {"documentation", "gpu"}
            assert preset.min_driver[0].isdigit()
            for image in preset.images.values():
                pinned(image)  # raises for one that moves


def test_the_embedding_image_follows_the_gpus_architecture() -> None:
    model = policy("embedding")

    assert ":86-1.7.2'" in script(model, offer(1, "a40")).text
    assert ":89-1.7.2'" in script(model, offer(1, "l40s")).text
    assert ":1.7.2'" in script(model, offer(1, "a100-80gb-pcie")).text


def test_an_engine_without_image_for_cpus_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"name an image in server\.image"):
        script(policy("sglang", hardware={"gpus": False}), offer(0))


def test_an_offer_with_too_few_gpus_is_refused() -> None:
    model = policy(hardware={"tensor_parallel": 4})

    with pytest.raises(ConfigError, match="has 2 GPUs"):
        script(model, offer(2))


def test_a_nonce_of_another_form_never_reaches_a_script() -> None:
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        script(policy(), offer(), nonce="$(id)")


def test_a_vm_holds_as_many_replicas_as_its_gpus_allow() -> None:
    assert replicas_of(policy(hardware={"tensor_parallel": 2}), offer(8)) == 4
    assert replicas_of(policy(hardware={"gpus": False}), offer(0)) == 1
    with pytest.raises(ConfigError):
        render(policy(), offer(2), nonce=NONCE, replicas=3, config=CONFIG)
