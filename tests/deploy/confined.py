"""Run as a program: confine this process as a unit's settings would, then become the command.

    confined.py '{"syscalls": [...], "families": [1, 2, 10]}' COMMAND...

What it stands for: MemoryDenyWriteExecute= (by the kernel's own switch; without one, exit status 77), SystemCallFilter=
with SystemCallErrorNumber=EPERM, RestrictAddressFamilies= and NoNewPrivileges=.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys

_PR_SET_MDWE = 65
_REFUSE_EXEC_GAIN = 1
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EPERM
_EQUALS = 4


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def deny_write_execute() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_MDWE, _REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
        print(f"prctl: errno {ctypes.get_errno()}", file=sys.stderr)
        sys.exit(77)


def filter_calls(allowed: list[str], families: list[int]) -> None:
    """Refuse every system call that is not named, and sockets of other families."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_rule_add_array.argtypes = (
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint),
        ctypes.POINTER(_Comparison),
    )
    library.seccomp_load.argtypes = (ctypes.c_void_p,)
    context = library.seccomp_init(_REFUSE)
    for name in allowed:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # of another architecture
            continue
        if name != "socket":
            _check(library.seccomp_rule_add_array(context, _ALLOW, number, 0, None), name)
            continue
        for family in families:
            only = _Comparison(0, _EQUALS, family, 0)
            _check(library.seccomp_rule_add_array(context, _ALLOW, number, 1, only), name)
    _check(library.seccomp_load(context), "seccomp_load")


def _check(status: int, what: str) -> None:
    if status != 0:
        raise OSError(-status, f"{what}: {os.strerror(-status)}")


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    deny_write_execute()
    filter_calls(settings["syscalls"], settings["families"])
    os.execvp(sys.argv[2], sys.argv[2:])
