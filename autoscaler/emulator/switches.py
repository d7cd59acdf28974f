"""One switch per open question about the real cloud.

Nobody has asked the real API these things, so a client must work with either answer. The first value
of each switch is the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

CHOICES: Mapping[str, tuple[str, ...]] = {
    "delete_running": ("ok", "refused"),
    "duplicate_names": ("refused", "ok"),
    "finished_operations": ("kept", "dropped"),
    "list": ("whole", "paged"),
    "network_rules": ("ok", "refused"),
    "create_id": ("yes", "no"),
    "meter": ("running", "existence"),
    "quota": ("http", "operation"),
    "ed25519_keys": ("ok", "refused"),
    "usage_quantity": ("gpu_hours", "vm_hours"),
}

QUESTIONS: Mapping[str, str] = {
    "delete_running": "does DELETE end a running VM, or must it be stopped first?",
    "duplicate_names": "may two VMs of a project have one name?",
    "finished_operations": "can a finished operation be read again, or is it dropped once read?",
    "list": "does a list come whole, or in pages with next_page_token?",
    "network_rules": "may a firewall rule cover a network, or one VM only?",
    "create_id": "does the answer to a create carry the VM's id?",
    "meter": "does a VM bill while RUNNING only, or from create to absence?",
    "quota": "is an exceeded quota refused at once (403), or does the operation fail?",
    "ed25519_keys": "are ed25519 keys taken, or only RSA ones?",
    "usage_quantity": "does usage count GPU-hours or VM-hours?",
}


@dataclass(frozen=True, slots=True)
class Switches:
    """How the emulated cloud answers each open question."""

    delete_running: str = "ok"
    duplicate_names: str = "refused"
    finished_operations: str = "kept"
    list: str = "whole"
    network_rules: str = "ok"
    create_id: str = "yes"
    meter: str = "running"
    quota: str = "http"
    ed25519_keys: str = "ok"
    usage_quantity: str = "gpu_hours"

    def with_values(self, values: Mapping[str, str]) -> Switches:
        """Set some switches.

        Raises:
            ValueError: an unknown switch or value; the message names those allowed.
        """
        for name, value in values.items():
            if name not in CHOICES:
                raise ValueError(f"unknown switch {name!r}: one of {', '.join(CHOICES)}")
            if value not in CHOICES[name]:
                allowed = " or ".join(CHOICES[name])
                raise ValueError(f"switch {name} is {value!r}: must be {allowed}")
        return replace(self, **values)

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def parse_switch(text: str) -> tuple[str, str]:
    """Read `name=value`.

    Raises:
        ValueError: not of that form, or no such switch or value.
    """
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"switch {text!r} is not name=value; one of {', '.join(CHOICES)}")
    Switches().with_values({name: value})
    return name, value


assert [field.name for field in fields(Switches)] == list(CHOICES) == list(QUESTIONS)
