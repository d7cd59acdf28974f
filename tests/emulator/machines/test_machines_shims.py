"""What a VM's own commands answer; run as a script would run them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from autoscaler.emulator.machine import MachineSpec
from autoscaler.emulator.machines.layout import DRIVER_VERSION, SHIMS, Layout

Build = Callable[..., MachineSpec]
Run = Callable[..., subprocess.CompletedProcess[str]]

VLLM = "vllm/vllm-openai:v0.11.0"


@pytest.fixture
def on(tmp_path: Path) -> Callable[[MachineSpec], Run]:
    """Run a command line in a VM's environment; nothing of the VM needs to run for that."""

    def machine(spec: MachineSpec) -> Run:
        layout = Layout(tmp_path / spec.vm_id)
        layout.prepare(spec, engine_arguments=(), real_llama_cpp=False)

        def run(command: str, **more: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                ["bash", "-c", command],
                env=layout.environment(spec) | more,
                cwd=layout.root,
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )

        return run

    return machine


On = Callable[[MachineSpec], Run]


def test_nvidia_smi_tells_what_the_type_has(on: On, spec: Build) -> None:
    run = on(spec(gpu="a100-80gb-pcie", gpus=2))

    query = "nvidia-smi --query-gpu=index,name,memory.total,driver_version --format=csv,noheader"

    assert run(query).stdout.splitlines() == [
        f"0, NVIDIA A100 80GB PCIe, 81920 MiB, {DRIVER_VERSION}",
        f"1, NVIDIA A100 80GB PCIe, 81920 MiB, {DRIVER_VERSION}",
    ]
    assert run(f"{query},nounits -i 1").stdout.split(", ")[2] == "81920"
    assert run("nvidia-smi -L | wc -l").stdout.strip() == "2"
    assert "A100" in run("nvidia-smi").stdout
    assert run("nvidia-smi --query-gpu=ecc.errors.corrected.volatile.total --format=csv").stdout
    unknown = run("nvidia-smi --query-gpu=colour --format=csv")
    assert (unknown.returncode, "not a valid field" in unknown.stdout) == (2, True)


@pytest.mark.parametrize(("gpu", "link"), [("l40s", "PHB"), ("a100-80gb-sxm", "NV12")])
def test_the_topology_shows_how_gpus_are_linked(on: On, spec: Build, gpu: str, link: str) -> None:
    rows = on(spec(gpu=gpu))("nvidia-smi topo -m").stdout.splitlines()

    assert rows[1].split()[:3] == ["GPU0", "X", link]


def test_a_machine_without_gpus_has_no_driver_that_answers(on: On, spec: Build) -> None:
    run = on(spec(gpu=None, gpus=0))

    assert run("nvidia-smi -L").returncode == 9
    assert "has failed" in run("nvidia-smi").stdout
    refused = run(f"docker run -d --gpus all {VLLM}")
    assert (refused.returncode, "capabilities: [[gpu]]" in refused.stderr) == (125, True)


def test_disk_and_processors_are_the_types_not_the_computers(on: On, spec: Build) -> None:
    run = on(spec(vcpu=16, disk_gb=128))

    filesystem, size, _, free, *_ = run("df -Pk $VM_ROOT | tail -n 1").stdout.split()

    assert (filesystem, int(size) * 1024) == ("/dev/vda1", 128_000_000_000)
    assert int(free) < int(size)
    assert run("nproc").stdout == "16\n"


def test_the_wrong_number_of_gpus_is_one_too_few(on: On, spec: Build) -> None:
    run = on(spec(gpus=4, boot_faults=frozenset({"wrong_gpus"})))

    assert len(run("nvidia-smi -L").stdout.splitlines()) == 3


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("docker run -d nobody/nothing:1", 125, "pull access denied for nobody/nothing"),
        ("docker pull nobody/nothing", 1, "pull access denied"),
        (f"docker run --frobnicate {VLLM}", 125, "unknown flag: --frobnicate"),
        (f"docker run -d --gpus '\"device=0,7\"' {VLLM}", 125, "device error: 7"),
        ("docker inspect ghost", 1, "No such object: ghost"),
        ("docker logs ghost", 1, "No such container: ghost"),
        ("docker rm ghost", 1, "No such container: ghost"),
        (f"docker image inspect {VLLM}", 1, "No such image"),
        ("docker swarm init", 1, "not a docker command"),
    ],
)
def test_docker_refuses_as_docker_does(
    on: On, spec: Build, command: str, code: int, said: str
) -> None:
    refused = on(spec())(command)

    assert (refused.returncode, said in refused.stderr) == (code, True), refused.stderr


def test_an_image_is_there_once_it_was_pulled(on: On, spec: Build) -> None:
    run = on(spec(time_factor=1e6))
    by_digest = f"vllm/vllm-openai@sha256:{'0' * 64}"

    pulled = run(f"docker pull {VLLM} && docker pull -q {by_digest}")

    assert (pulled.returncode, "Downloaded newer image" in pulled.stdout) == (0, True)
    assert "up to date" in run(f"docker pull {VLLM}").stdout
    assert json.loads(run(f"docker image inspect {by_digest}").stdout)[0]["RepoDigests"] == [
        by_digest
    ]


def test_docker_and_systemctl_say_that_the_image_is_complete(on: On, spec: Build) -> None:
    run = on(spec())

    assert run("docker version -f '{{.Server.Version}}'").stdout == "26.1.4\n"
    assert "nvidia" in run("docker info").stdout
    assert run("docker run --rm nvidia/cuda:12.2.0-base nvidia-smi -L").stdout.count("L40S") == 2
    assert run("systemctl is-active docker").stdout == "active\n"
    assert run("systemctl is-active --quiet nginx").returncode == 3
    assert run("sudo systemctl restart docker && sudo -n apt-get update").returncode == 0


@pytest.mark.parametrize("real", [True, False])
def test_curl_finds_the_machine_itself_at_127_0_0_1(
    on: On, spec: Build, tmp_path: Path, real: bool
) -> None:
    machine = spec()
    run = on(machine)
    curl = tmp_path / "vm-1/bin/curl"
    if not real:  # a computer that has no curl of its own
        curl.write_text(curl.read_text().replace("/bin/curl; do", "/nowhere/curl; do"))
        curl.write_text(curl.read_text().replace("/usr/local/bin/curl /usr/bin/curl", ""))
    server = f"python3 -m http.server --bind {machine.address} 8123 >/dev/null 2>&1"

    answers = run(
        f"cd opt; echo hi > page; {server} & trap 'kill $!' EXIT\n"
        f"curl -fsS --retry 100 --retry-delay 0 --retry-connrefused http://127.0.0.1:8123/page || "
        f"for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2; curl -fs localhost:8123/page && break; done\n"
        "curl -s -o /dev/null -w '%{http_code}' http://localhost:8123/none; echo\n"
        "curl -sf http://localhost:8123/none; echo $?\n"
        "curl -sf --max-time 1 http://localhost:8124/; echo $?"
    )

    assert answers.stdout.splitlines() == ["hi", "404", "22", "7"], answers.stderr


def test_shellcheck_finds_nothing_in_the_shims() -> None:
    shims = [str(path) for path in SHIMS.iterdir()]

    try:
        found = subprocess.run(
            ["shellcheck", "-s", "sh", *shims], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.fail("shellcheck is missing: apt-get install shellcheck")

    assert found.stdout == ""
