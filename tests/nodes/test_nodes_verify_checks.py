"""What verification concludes from what a node says: boot reports, GPUs, disks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.errors import NodeUnreachable, VerificationFailed
from autoscaler.nodes.diagnostics import LIMIT_BYTES, collect
from autoscaler.nodes.engine_load import held_requests
from autoscaler.nodes.gpus import Gpu, parse_gpu
from autoscaler.nodes.shell import OUTPUT_BYTES, CommandOutput
from autoscaler.nodes.verify_boot import BootReport, StageTime, check_boot, parse_boot
from autoscaler.nodes.verify_machine import check_gpus, check_machine, check_xids, parse_machine
from autoscaler.policy import Deadlines
from tests.nodes.vm_parts import offer, policy

L40S = Gpu(0, "NVIDIA L40S", 46068, "535.161.08")
SECOND = 1_000_000_000


@dataclass
class Says:
    """A shell that answers every command with this text."""

    text: str = ""
    fails_after: int = 1000

    async def run(
        self,
        command: str,
        *,
        timeout_s: float,
        max_bytes: int = OUTPUT_BYTES,
        input: bytes | None = None,
    ) -> CommandOutput:
        self.fails_after -= 1
        if self.fails_after < 0:
            raise NodeUnreachable("gone")
        return CommandOutput(0, self.text[:max_bytes], "")

    async def put_secret(self, path: str, content: bytes) -> None:
        raise AssertionError("nothing to deliver")


# boot


def test_a_vm_whose_script_has_not_begun_has_no_stage() -> None:
    assert parse_boot("now 5\n") == BootReport(stage=None)


def test_stages_are_timed_by_the_nodes_own_clock() -> None:
    report = parse_boot(
        f"now {60 * SECOND}\nscript alive\nstatus running pull\n"
        f"stage {10 * SECOND} driver\nstage {12 * SECOND} pull\n"
    )

    assert report.stage == "pull"
    assert report.stages == (StageTime("driver", 2.0), StageTime("pull", 48.0))


def test_a_finished_script_needs_no_living_process() -> None:
    report = parse_boot("now 9\nscript dead\nstatus finished\nstage 1 health\nstage 2 finished\n")

    assert report.stage == "finished"
    assert not report.is_dead
    assert [stage.name for stage in report.stages] == ["health"]


@given(text=st.text() | st.from_regex(r"(now|stage|status|script|gpu) [ -~]{0,40}\n"))
def test_no_answer_of_a_node_breaks_the_reading(text: str) -> None:
    parse_boot(text)
    parse_machine(text)


async def test_a_failed_stage_is_told_with_its_reason_and_the_logs_end() -> None:
    report = parse_boot("now 9\nstatus failed pull 1 no space left\nstage 1 pull\n")

    with pytest.raises(VerificationFailed, match=r"(?s)stage pull: no space left.*the end") as said:
        await check_boot(Says("the beginning\nthe end hf_canaryCanary"), report, Deadlines())
    assert "canary" not in str(said.value)


async def test_a_killed_script_fails_at_once() -> None:
    report = parse_boot("now 9\nscript dead\nstatus running disks\nstage 1 disks\n")

    with pytest.raises(VerificationFailed, match="disks: the startup script was killed"):
        await check_boot(Says(), report, Deadlines())


async def test_a_stage_that_hangs_fails_at_its_own_deadline() -> None:
    deadlines = Deadlines(pull=timedelta(seconds=90))
    late = BootReport("pull", (StageTime("driver", 500.0), StageTime("pull", 121.0)))
    early = replace(late, stages=(StageTime("pull", 119.0),))

    await check_boot(Says(), early, deadlines)
    with pytest.raises(VerificationFailed, match="pull: no end after 121 s, 90 s are allowed"):
        await check_boot(Says(), late, deadlines)


# the machine


def test_the_gpus_that_were_ordered_pass() -> None:
    check_gpus([L40S, replace(L40S, index=1)], offer(2))


@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        ([], r"l40s-48gb\.1x has 1, 0 found \(nvidia-smi: no devices\)"),
        ([L40S, L40S], "has 1, 2 found"),
        ([replace(L40S, name="NVIDIA L4")], "GPU 0 is 'NVIDIA L4'"),
        ([replace(L40S, memory_mib=23034)], "shows 23034 MiB"),
        ([replace(L40S, ecc_errors=3)], "3 uncorrectable memory errors"),
    ],
)
def test_other_gpus_than_ordered_fail(gpus: list[Gpu], said: str) -> None:
    with pytest.raises(VerificationFailed, match=said):
        check_gpus(gpus, offer(1), "no devices")


def test_a_card_that_counts_no_memory_errors_has_none() -> None:
    assert parse_gpu("0, NVIDIA A40, 46068, 535.54.03, [N/A]") == Gpu(
        0, "NVIDIA A40", 46068, "535.54.03"
    )


def test_a_gpu_that_fell_off_the_bus_fails_and_a_programs_fault_does_not() -> None:
    text = (
        "== xids\n[1] NVRM: Xid (PCI:0000:10:00): 31, pid=1, name=python3\n"
        "[2] NVRM: Xid (PCI:0000:10:00): 79, GPU has fallen off the bus.\n"
    )

    xids = parse_machine(text).xids

    assert xids == (31, 79)
    check_xids(xids[:1])
    with pytest.raises(VerificationFailed, match="Xid 79"):
        check_xids(xids)


TOPOLOGY = """== gpus
0, NVIDIA L40S, 46068, 535.161.08, 0
1, NVIDIA L40S, 46068, 535.161.08, 0
2, NVIDIA L40S, 46068, 535.161.08, 0
3, NVIDIA L40S, 46068, 535.161.08, 0
== topology
\tGPU0\tGPU1\tCPU Affinity
GPU0\t X \t{link}\t0-7
Legend:
  NV#  = Connection traversing a bonded set of # NVLinks
== disk
/dev/vda1 128000000 20000000 {free} 16% /
"""


def test_tensor_parallelism_of_four_needs_nvlink_or_the_operators_word() -> None:
    over_pcie = parse_machine(TOPOLOGY.format(link="PHB", free=90_000_000))
    linked = parse_machine(TOPOLOGY.format(link="NV12", free=90_000_000))
    hardware = {"tensor_parallel": 4}
    allowed = policy(hardware={**hardware, "allow_tensor_parallel_over_pcie": True})

    assert linked.has_nvlink
    check_machine(linked, policy(hardware=hardware), offer(4))
    check_machine(over_pcie, allowed, offer(4))
    with pytest.raises(VerificationFailed, match="allow_tensor_parallel_over_pcie"):
        check_machine(over_pcie, policy(hardware=hardware), offer(4))


def test_a_disk_that_is_nearly_full_fails_with_both_figures() -> None:
    facts = parse_machine(TOPOLOGY.format(link="PHB", free=1_048_576))

    with pytest.raises(VerificationFailed, match=r"1\.0 GiB free .* is 2\.0 GiB"):
        check_machine(facts, policy(), offer(4))


# diagnostics and load


async def test_diagnostics_are_bounded_and_go_as_far_as_the_session() -> None:
    long = await collect(Says("x" * 300_000))
    cut = await collect(Says("all is well", fails_after=2), secrets=["well"])

    assert len(long.encode()) <= LIMIT_BYTES
    assert "== containers\nnot read: gone" in cut
    assert "all is ****" in cut


def test_held_requests_are_summed_over_labels_and_missing_is_not_zero() -> None:
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    page = (
        '# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name="a b"} 2.0\n'
        'vllm:num_requests_running{engine="1"} 1.0\nvllm:num_requests_waiting{engine="0"} 4.0\n'
        "vllm:num_requests_waiting_by_reason 9\n"
    )

    assert held_requests(page, names) == 7
    assert held_requests(page.replace("waiting{", "other{"), names) is None
    assert held_requests(page.replace("4.0", "NaN"), names) is None
    assert held_requests(page.replace("4.0", "-1"), names) is None
