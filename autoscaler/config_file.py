"""Read config.toml and the policy files it names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autoscaler.config import Config
from autoscaler.decide.profiles import Profiles
from autoscaler.domain.ids import ModelName, slug
from autoscaler.errors import ConfigError
from autoscaler.form import below_floor
from autoscaler.hub.kept import read_kept
from autoscaler.policy import Policy, Route
from autoscaler.quantity import show_duration
from autoscaler.tls_engines import why_no_tls
from autoscaler.toml_file import read_toml

_MACHINE_ID = 32  # hex digits


@dataclass(frozen=True, slots=True)
class PolicyFiles:
    """All policies of a directory, each with the file it came from."""

    policies: Mapping[ModelName, Policy]
    files: Mapping[ModelName, Path]


def read_config(path: Path) -> Config:
    """Read config.toml; relative paths in it are relative to the file.

    Raises:
        ConfigError: a line per mistake.
    """
    try:
        config = read_toml(path, Config)
    except ConfigError as exc:
        if not isinstance(exc.__cause__, FileNotFoundError):
            raise
        hint = "name yours with --config; `autoscaler init DIRECTORY` makes one"
        raise ConfigError(f"{exc}: {hint}") from exc.__cause__
    base = path.resolve().parent
    cloud = config.cloud
    if not cloud.owner:
        cloud = cloud.owned_by(derived_owner(path, base / config.state_dir))

    def absolute(given: Path | None) -> Path | None:
        return None if given is None else base / given

    return config.model_copy(
        update={
            "policies": base / config.policies,
            "state_dir": base / config.state_dir,
            "runtime_dir": base / config.runtime_dir,
            "cloud": cloud.model_copy(
                update={
                    name: absolute(getattr(config.cloud, name))
                    for name in ("key_file", "password_file", "ca_file", "prices_file")
                }
            ),
            "ssh": config.ssh.model_copy(
                update={
                    name: absolute(getattr(config.ssh, name))
                    for name in ("key_file", "host_authority")
                }
            ),
            "front": config.front.beside(base),
            "gateway": config.gateway.model_copy(
                update={"control": absolute(config.gateway.control)}
            ),
            "tunnels": config.tunnels.model_copy(
                update={"control": absolute(config.tunnels.control)}
            ),
            "serve": config.serve.model_copy(update={"socket": absolute(config.serve.socket)}),
            "haproxy": tuple(
                h.model_copy(
                    update={
                        # those of another host are that host's paths
                        "socket": h.socket if h.ssh else base / h.socket,
                        "master_socket": h.master_socket if h.ssh else absolute(h.master_socket),
                        "ssh_key_file": absolute(h.ssh_key_file),
                    }
                )
                for h in config.haproxy
            ),
        }
    )


def derived_owner(
    config_file: Path, state_dir: Path, machine_id: Path = Path("/etc/machine-id")
) -> str:
    """The owner mark of a config that names none: of this machine and the state's directory, whatever is in it.

    Raises:
        ConfigError: this machine has no id.
    """
    try:
        machine = machine_id.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        machine = ""
    if len(machine) < _MACHINE_ID:
        raise ConfigError(
            f"{config_file}: cloud.owner: is missing, and there is no {machine_id} to derive one from: write 8 "
            "letters or digits that no other deployment in the project uses, such as "
            "python3 -c 'import secrets; print(secrets.token_hex(4))' draws"
        )
    return hashlib.sha256(f"{machine}\n{state_dir}".encode()).hexdigest()[:8]


def read_policy(path: Path) -> Policy:
    """Read one policy file, with the files beside it that it names, and what a hub once told of its model.

    Raises:
        ConfigError: a line per mistake.
    """
    policy = read_toml(path, Policy)
    server = policy.server
    beside = {
        name: str(path.resolve().parent / given)
        for name in ("script", "token_file")
        if (given := getattr(server, name)) is not None
    }
    for name, found in beside.items():
        if not _is_file(Path(found)):
            raise ConfigError(
                f"{path}: server.{name}: no such file: {found} (or it may not be read)"
            )
    facts = policy.facts
    if Profiles.load().facts(policy) is None:
        kept = read_kept(path, policy)
        facts = kept.facts if kept is not None else None
    return policy.model_copy(update={"server": server.model_copy(update=beside), "facts": facts})


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a directory that may not be entered, a name too long
        return False


def check_floors(path: Path, policy: Policy) -> None:
    """Refuse durations that only an emulator on loopback may have.

    Raises:
        ConfigError: a line per duration.
    """
    problems = [
        f"{path}: {key}: found {show_duration(value)}, the least is {show_duration(least)}; only an "
        "emulator on loopback may go lower"
        for key, value, least in below_floor(policy)
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def check_route(path: Path, policy: Policy, balancer: str) -> None:
    """Refuse a way of routing that the balancer before the nodes would not go.

    Raises:
        ConfigError: affinity, and HAProxy, whose `balance` line is not ours to write.
    """
    if policy.route is Route.AFFINITY and balancer != "gateway":
        raise ConfigError(
            f'{path}: route: found "affinity", with balancer = "{balancer}" only "least-in-flight" is allowed: '
            "the gateway routes by session, HAProxy only by its own configuration; remove the key, and write "
            "`balance hdr(…)`, `hash-type consistent` and `hash-balance-factor 125` into the model's backend"
        )


def check_reach(path: Path, policy: Policy, reach: str | None) -> None:
    """Refuse a server that cannot be reached as the config says.

    Raises:
        ConfigError: it speaks no TLS.
    """
    why = why_no_tls(policy) if reach == "tls" else None
    if why is not None:
        raise ConfigError(
            f'{path}: {why} (reach is "tls" there; on a real cloud also when it is left out)'
        )


def read_policies(
    directory: Path, *, emulated: bool = True, balancer: str = "gateway", reach: str | None = None
) -> PolicyFiles:
    """Read every `*.toml` of a directory, whole or not at all.

    Args:
        emulated: whether the cloud is an emulator on loopback, which may undercut the floors of durations.
        balancer: what spreads requests over the nodes, as in config.toml.
        reach: how nodes are reached, as in config.toml; None leaves that unchecked.

    Raises:
        ConfigError: every mistake of every file, or two files that claim one model.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory}: no such directory: `policies` in config.toml names it")
    policies: dict[ModelName, Policy] = {}
    files: dict[ModelName, Path] = {}
    problems: list[str] = []
    for path in sorted(directory.glob("*.toml")):
        try:
            policy = read_policy(path)
            if not emulated:
                check_floors(path, policy)
            check_route(path, policy, balancer)
            check_reach(path, policy, reach)
        except ConfigError as exc:
            problems.append(str(exc))
            continue
        taken = _taken(policy, policies)
        if taken is not None:
            problems.append(f"{path}: model: {policy.model!r} clashes with {files[taken]}")
            continue
        policies[policy.name] = policy
        files[policy.name] = path
    if problems:
        raise ConfigError("\n".join(problems))
    return PolicyFiles(policies, files)


def no_clash(policies: Mapping[ModelName, Policy]) -> None:
    """Refuse two policies that claim one name: one that is held keeps the names that it had.

    Raises:
        ConfigError: which two.
    """
    seen: dict[ModelName, Policy] = {}
    for policy in policies.values():
        taken = _taken(policy, seen)
        if taken is not None:
            raise ConfigError(
                f"{policy.model}: clashes with {taken}, which keeps its names while its new policy waits: "
                f"`autoscaler confirm MODEL` for the one that does (`autoscaler status` names it)"
            )
        seen[policy.name] = policy


def _taken(policy: Policy, others: Mapping[ModelName, Policy]) -> ModelName | None:
    """The model that already has one of this policy's names, or its short form in machines' names."""
    names = {policy.model, *policy.aliases}
    for other in others.values():
        if names & {other.model, *other.aliases} or slug(other.model) == slug(policy.model):
            return other.name
    return None
