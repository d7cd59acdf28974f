"""What holds for every test: no verdict hangs on how fast this machine is."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# By default an example that takes 200 ms fails; on a busy machine that is any example that writes to a disk.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
