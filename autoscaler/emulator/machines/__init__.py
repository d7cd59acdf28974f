"""The emulator's virtual machines: real processes on this computer, one tree of them per VM.

A VM has a root directory of its own, a loopback address, an SSH server with its own host key, and a
supervisor process under which its startup script, its SSH commands and its containers really run.
Nothing is left when a VM, or the emulator itself, ends: SIGKILL included.

There is no chroot, for the emulator needs no root. A script written for a real VM therefore puts
`${VM_ROOT:-}` before every absolute path that it writes or reads back, and `${VM_ADDRESS:-127.0.0.1}`
where it means this machine; on a real VM both variables are unset and nothing changes. `docker`,
`nvidia-smi`, `sudo` and the like are found first on the PATH and answer as the VM's type would.

`LocalMachines` is in `machines.local`; this page imports nothing, for every `docker` of a VM reads it.

Nothing here may import from the daemon's side, or let a VM's process outlive its VM.
"""
