"""What `autoscaler init` does once everything was asked: looks at the account, and makes the files."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import asyncssh
import jinja2

from autoscaler.cloud.mkinf.client import MkinfClient
from autoscaler.cloud.mkinf.connect import settings_of
from autoscaler.cloud.mkinf.credentials import AccessKey, SecretFile
from autoscaler.cloud.mkinf.values import Project
from autoscaler.cloud.secret import Secret
from autoscaler.config import CloudSettings
from autoscaler.config_file import read_config, read_policies
from autoscaler.domain.ids import slug
from autoscaler.errors import AuthFailed, ConfigError, Rejected
from autoscaler.file_schema import KINDS, shipped
from autoscaler.policy import Engine
from autoscaler.setup.placing import NewFile, refuse_existing, staged

_SYSTEM = Path("/etc")
_SYSTEM_STATE = Path("/var/lib/autoscaler")
_SYSTEM_RUNTIME = Path("/run/autoscaler")
_SYSTEM_KEY = Path("/run/credentials/autoscaler.service/mkinf.key")
_SYSTEM_CONTROL = Path("/run/autoscaler-gateway/control.sock")
_RUNTIME = Path("run")
_KEY = "mkinf.key"
_AUTHORITY = "host_authority"
_EMULATOR_SSH_PORT = 2222  # unless its --ssh-port says otherwise


@dataclass(frozen=True, slots=True)
class Answers:
    """What was asked.

    Attributes:
        directory: where config.toml goes.
        key_file: an access key that is there already; None when `key` is to be written.
        key: typed in just now.
        url: None for mkinf itself.
        project: id or name; None when the only one is meant.
        sources: CIDRs that may reach the nodes.
    """

    directory: Path
    key_file: Path | None
    key: Secret | None = None
    url: str | None = None
    project: str | None = None
    usd_per_hour: str = "5"
    usd_per_month: str = "600"
    nodes: int = 4
    sources: tuple[str, ...] = ()
    model: str = "Qwen/Qwen3-8B"
    engine: Engine = Engine.VLLM

    @property
    def is_system(self) -> bool:
        """Whether a service of the system is being set up."""
        return self.directory.resolve().is_relative_to(_SYSTEM)

    @property
    def is_emulated(self) -> bool:
        """Whether the cloud is on this host."""
        if self.url is None:
            return False
        return CloudSettings.model_validate({"key_file": "-", "url": self.url}).is_loopback

    @property
    def state_dir(self) -> Path:
        return _SYSTEM_STATE if self.is_system else Path("state")

    @property
    def host_authority(self) -> Path:
        """Beside the config and not in the state, whose loss it is for; a service may write its state alone."""
        return self.state_dir / _AUTHORITY if self.is_system else Path(_AUTHORITY)

    @property
    def policy_file(self) -> Path:
        return Path("policies") / f"{slug(self.model.rpartition('/')[2])}.toml"


async def reached(answers: Answers) -> tuple[Project, ...]:
    """The projects that the key opens; none where it may not list them, and one was named.

    Raises:
        ConfigError: the key is refused, or its file is not fit for use.
        CloudUnavailable: no answer now.
    """
    client = _client(answers, None)
    try:
        return tuple(await client.projects())
    except AuthFailed as exc:
        if answers.project is not None:
            return ()
        raise ConfigError(
            f"the cloud refuses this key, or does not let it list projects ({exc}): copy it anew from the console, "
            "or name its project with --project"
        ) from exc
    finally:
        await client.close()


async def prove_project(answers: Answers, project: Project) -> int:
    """See that the key reads from the project; returns how many offers it is told of.

    Raises:
        ConfigError: it does not.
        CloudUnavailable: no answer now.
    """
    client = _client(answers, project.id)
    try:
        return len(await client.availabilities())
    except (AuthFailed, Rejected) as exc:
        raise ConfigError(f"the key does not open project {project.id}: {exc}") from exc
    finally:
        await client.close()


def _client(answers: Answers, project: str | None) -> MkinfClient:
    given = {"url": answers.url} if answers.url else {}
    source = answers.key or SecretFile(answers.key_file or Path(_KEY))
    try:
        settings = CloudSettings.model_validate({"key_file": "-", "project": project, **given})
    except ValueError as exc:
        raise ConfigError(f"--url: {exc}") from exc
    if urlsplit(settings.url).path.strip("/") == "":
        raise ConfigError(
            f"--url: found {answers.url}: the API's version is missing, as in {str(answers.url).rstrip('/')}/v0.1"
        )
    credential = AccessKey(source)
    credential.read()
    return MkinfClient(settings_of(settings), credential)


def choose_project(projects: Sequence[Project], wanted: str | None) -> Project | None:
    """The project that is meant, by id or name; None when somebody has to be asked.

    Raises:
        ConfigError: there is no such project.
    """
    if not projects and wanted is not None:
        return Project(id=wanted)  # the key may not list them
    if wanted is None:
        return projects[0] if len(projects) == 1 else None
    found = [each for each in projects if wanted in (each.id, each.name)]
    if len(found) != 1:
        raise ConfigError(
            f"--project: {'no' if not found else 'more than one'} project is {wanted!r}; there are: "
            f"{known(projects)}"
        )
    return found[0]


def known(projects: Sequence[Project]) -> str:
    """The projects as one line."""
    return ", ".join(f"{each.name or '-'} ({each.id})" for each in projects) or "none"


def write(answers: Answers, project: Project) -> tuple[Path, ...]:
    """Make every file, or none; returns them.

    Raises:
        ConfigError: one of them is there already or cannot be written, or the answers make no valid config.
    """
    files = planned(answers, project)
    refuse_existing(answers.directory / path for path in files)
    folders = () if answers.is_system else (_RUNTIME,)  # systemd makes a service's
    with staged(answers.directory, files, folders) as stage:
        try:
            config = read_config(stage / "config.toml")
            read_policies(config.policies, emulated=config.cloud.is_loopback)
        except ConfigError as exc:
            raise ConfigError(str(exc).replace(str(stage), str(answers.directory))) from exc
    return tuple(answers.directory / path for path in files)


def planned(answers: Answers, project: Project) -> Mapping[Path, NewFile]:
    """Every file that `write` makes, by its path below the directory, or its own.

    Raises:
        ConfigError: the key's file cannot be read.
    """
    ssh_key, authority = (
        asyncssh.generate_private_key("ssh-ed25519", comment="autoscaler") for _ in range(2)
    )
    files = {
        Path("config.toml"): _text(_config(answers, project)),
        answers.policy_file: _text(_policy(answers)),
        **{Path(".schema") / f"{kind}.json": _text(shipped(kind)) for kind in KINDS},
        answers.state_dir / "ssh_key": NewFile(ssh_key.export_private_key("openssh"), 0o600),
        answers.host_authority: NewFile(authority.export_private_key("openssh"), 0o600),
    }
    key = answers.key
    if key is None and answers.is_system and answers.key_file != answers.directory / _KEY:
        key = SecretFile(
            answers.key_file or Path(_KEY)
        ).read()  # the service's credential is read from there
    if key is not None:
        files[Path(_KEY)] = NewFile(f"{key.reveal()}\n".encode(), 0o600)
    return files


def _config(answers: Answers, project: Project) -> str:
    runtime = _SYSTEM_RUNTIME if answers.is_system else _RUNTIME
    key_file = answers.key_file.resolve() if answers.key_file else Path(_KEY)
    return _template("config.toml.j2").render(
        state_dir=quoted(str(answers.state_dir)),
        runtime_dir=quoted(str(runtime)),
        usd_per_hour=quoted(answers.usd_per_hour),
        usd_per_month=quoted(answers.usd_per_month),
        nodes=answers.nodes,
        url=quoted(answers.url) if answers.url else "",
        project=quoted(project.id),
        project_name=_comment(project.name or ""),
        key_file=quoted(str(_SYSTEM_KEY if answers.is_system else key_file)),
        control=quoted(str(_SYSTEM_CONTROL)) if answers.is_system else "",
        host_authority=quoted(str(answers.host_authority)),
        emulator_ssh_port=_EMULATOR_SSH_PORT if answers.is_emulated else None,
        owner=quoted(secrets.token_hex(4)),
        sources=_list(answers.sources),
    )


def _policy(answers: Answers) -> str:
    return _template("policy.toml.j2").render(
        model=quoted(answers.model),
        engine=quoted(answers.engine.value),
        nodes=min(answers.nodes, 4),
        limit=quoted(answers.usd_per_hour),
    )


def _text(content: str) -> NewFile:
    return NewFile(content.encode())


def quoted(text: str) -> str:
    """A TOML string that means exactly this text; JSON's form is one of TOML's."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _list(words: Sequence[str]) -> str:
    return f"[{', '.join(quoted(word) for word in words)}]" if words else ""


def _comment(text: str) -> str:
    """What a cloud calls something, fit for the end of a line."""
    return "".join(c for c in text if c.isprintable())[:60]


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("autoscaler.setup", "."),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # TOML, not HTML: `quoted` is what escapes here
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<{",
        variable_end_string="}>",
        comment_start_string="<#",
        comment_end_string="#>",
    )


def _template(name: str) -> jinja2.Template:
    return _environment().get_template(name)
