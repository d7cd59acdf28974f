"""Run as a program, as root: boot a real systemd that knows our units only, and do what an operator does.

It prints one line of JSON. Exit status 77: a systemd cannot be booted here, and the line says why.

Everything happens in namespaces of its own (processes, mounts, network, control groups): the host's files, users and
units are not touched. The units are those of deploy/systemd as they are; drop-ins add where the log goes and where the
interpreter lies, which is that of these tests.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNITS = Path("/run/units")
SERVICES = ("autoscaler", "autoscaler-gateway", "autoscaler-tunnels")
CGROUPS = Path("/sys/fs/cgroup")
SYSTEMD = Path("/usr/lib/systemd/systemd")
SITE = next(Path(path) for path in sys.path if path.endswith("site-packages"))
OURS = Path("/opt/autoscaler")
PYTHON = Path("/opt/python")
APART = (
    *("--pid", "--fork", "--kill-child", "--mount", "--mount-proc"),
    *("--cgroup", "--net", "--uts", "--ipc"),
)
LIMIT_S = 120.0
TARGETS = ("basic", "sysinit", "sockets", "multi-user", "shutdown", "network-online", "time-sync")
DROP_IN = """[Service]
StandardOutput=append:/run/{0}.log
StandardError=append:/run/{0}.log
Environment=LD_LIBRARY_PATH={1}/lib PYTHONPATH=/opt/tree
"""


# outside


def outside() -> int:
    """Have a control group of our own, start ourselves again within, pass on the line, and leave nothing behind."""
    base = CGROUPS if (CGROUPS / "cgroup.procs").exists() else CGROUPS / "systemd"
    group = base / f"units-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as exc:
        return _cannot(f"no control group can be made: {exc}")
    try:
        with subprocess.Popen(
            ("unshare", *APART, sys.executable, __file__, "inside"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: _join(group),
        ) as there:
            assert there.stdout is not None
            assert there.stderr is not None
            limit = threading.Timer(LIMIT_S, there.kill)
            limit.start()
            line = there.stdout.readline().decode().strip()
            limit.cancel()
            there.kill()  # and with it all that is within
            said = there.stderr.read().decode()[-2000:]
    except (OSError, subprocess.SubprocessError) as exc:
        return _cannot(str(exc))
    finally:
        _remove(group)
    if not line:
        return _cannot(f"it did not boot: {said}")
    print(line)
    return 0


def _join(group: Path) -> None:
    (group / "cgroup.procs").write_text("0")


def _cannot(why: str) -> int:
    print(json.dumps({"why": why}))
    return 77


def _remove(group: Path) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError):
            for folder, _, _ in os.walk(group, topdown=False):
                os.rmdir(folder)
            return
        time.sleep(0.05)  # until the kernel has ended them all


# inside, before systemd


def inside() -> None:
    """Make a host for it, leave a child that is the operator, and become systemd."""
    out = os.dup(1)
    os.dup2(2, 1)
    _mount_all()
    _install()
    _loopback_up()
    operator = Path(__file__).with_name("units_at_work.py")
    subprocess.Popen((sys.executable, str(operator)), cwd=ROOT, stdout=out)
    os.close(out)
    _become_systemd()


def _become_systemd() -> None:
    alone = {"container": "lxc", "SYSTEMD_UNIT_PATH": str(UNITS)}
    for kind in ("GENERATOR", "ENVIRONMENT_GENERATOR"):
        alone[f"SYSTEMD_{kind}_PATH"] = "/run/none"
    command = (str(SYSTEMD), "--system", "--unit=start.target", "--show-status=no")
    os.execve(SYSTEMD, (*command, "--log-target=null"), dict(os.environ) | alone)


def _mount_all() -> None:
    def mount(*words: str) -> None:
        subprocess.run(("mount", *words), check=True)

    def fresh(folder: Path) -> None:
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(folder))

    def bind(what: Path, where: Path) -> None:
        where.mkdir(parents=True, exist_ok=True)
        mount("--bind", str(what), str(where))

    is_unified = (CGROUPS / "cgroup.procs").exists()
    mount("--make-rprivate", "/")
    if is_unified:
        mount("-t", "cgroup2", "cgroup2", str(CGROUPS))
    else:
        fresh(CGROUPS)
        (CGROUPS / "systemd").mkdir()
        (CGROUPS / "unified").mkdir()
        mount("-t", "cgroup", "-o", "none,name=systemd", "cgroup", str(CGROUPS / "systemd"))
        mount("-t", "cgroup2", "cgroup2", str(CGROUPS / "unified"))
    mount("--bind", "/proc/sys", "/proc/sys")
    mount("-o", "remount,bind,ro", "/proc/sys")  # the kernel is everybody's
    prefix = Path(sys.base_prefix)
    fresh(Path("/opt"))
    bind(prefix, PYTHON)
    bind(SITE, OURS / "lib" / f"python3.{sys.version_info.minor}" / "site-packages")
    bind(ROOT, Path("/opt/tree"))
    for folder in (Path("/run"), Path("/var/lib")):
        fresh(folder)
    shutil.copytree("/etc", "/run/etc", symlinks=True)
    bind(Path("/run/etc"), Path("/etc"))
    mount("--make-rshared", "/")  # as on a booted host: credentials are mounted through it


def _install() -> None:
    """What deploy/README.md has one do."""
    (OURS / "bin").mkdir()
    (OURS / "pyvenv.cfg").write_text(f"home = {PYTHON}/bin\n")
    python = OURS / "bin" / "python"
    python.symlink_to(PYTHON / "bin" / f"python3.{sys.version_info.minor}")
    command = OURS / "bin" / "autoscaler"
    command.write_text(f"#!{python}\nfrom autoscaler.__main__ import main\nmain()\n")
    command.chmod(0o755)
    units = ROOT / "deploy" / "systemd"
    subprocess.run(("systemd-sysusers", str(units / "sysusers.conf")), check=True)
    UNITS.mkdir()
    for unit in (*units.glob("autoscaler*.service"), *units.glob("autoscaler*.socket")):
        shutil.copy(unit, UNITS)
    for service in SERVICES:
        drop_in = UNITS / f"{service}.service.d" / "test.conf"
        drop_in.parent.mkdir()
        drop_in.write_text(DROP_IN.format(service, PYTHON))
    for target in TARGETS:
        (UNITS / f"{target}.target").write_text("[Unit]\n")
    start = "[Unit]\nDefaultDependencies=no\nWants=multi-user.target\n"
    (UNITS / "start.target").write_text(start)
    for folder in ("policies", ""):
        Path("/etc/autoscaler", folder).mkdir(parents=True, exist_ok=True)
    text = (ROOT / "config.example.toml").read_text()
    where = '\nurl = "http://127.0.0.1:9500/v0.1"\n'
    Path("/etc/autoscaler/config.toml").write_text(text.replace("[cloud]\n", f"[cloud]{where}", 1))


def _loopback_up() -> None:
    with socket.socket() as any_socket:
        request = struct.pack("16sh14x", b"lo", 0x1 | 0x40)  # up, running
        fcntl.ioctl(any_socket, 0x8914, request)


if __name__ == "__main__":
    inside() if sys.argv[1:] == ["inside"] else sys.exit(outside())
