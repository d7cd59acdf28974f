"""What makes the daemon ready, what is wrong with it, and why nothing may be launched."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from autoscaler.domain.ids import ModelName

log = structlog.get_logger(__name__)

_PAYMENT_PAUSE_S = 600.0


@dataclass(slots=True)
class Health:
    """The daemon's own state, for whoever asks and for whoever would launch."""

    swept: bool = False
    held: str | None = None
    safe_mode: bool = False
    safe_mode_until_s: float = 0.0
    project_checked: bool = False
    last_pass_s: float = 0.0
    payment_trouble: str | None = None
    payment_until_s: float = 0.0
    way_trouble: str | None = None
    store_trouble: str | None = None
    stray: tuple[ModelName, ...] = ()

    def forbidden(self) -> str | None:
        """Why nothing may be launched at all."""
        if self.safe_mode:
            return "safe mode: too many starts in a short time; it sweeps, deletes and serves only"
        if not self.project_checked:
            return "the project that the key reaches was not checked yet"
        if self.held is not None:
            return f"the sweep is held, so what bills is not known: {self.held}"
        if not self.swept:
            return "the first sweep has not ended yet"
        if self.payment_trouble is not None:
            return f"the cloud wants payment: {self.payment_trouble}"
        if self.way_trouble is not None:
            return f"a new node could not be reached: {self.way_trouble}"
        return None

    def want_payment(self, why: str, now_s: float) -> None:
        """An unpaid account refuses every launch: try again after a while, not at every pass."""
        if self.payment_trouble is None:
            log.error("payment_required", why=why, do="mend the account's payment; nodes go on")
        self.payment_trouble = why
        self.payment_until_s = now_s + _PAYMENT_PAUSE_S

    def may_be_paid(self, now_s: float) -> None:
        """Let launches be tried again once the pause is over."""
        if now_s >= self.payment_until_s:
            self.payment_trouble = None

    def enter_safe_mode(self, until_s: float) -> None:
        self.safe_mode, self.safe_mode_until_s = True, until_s

    def left_safe_mode(self, now_s: float) -> bool:
        """Launch again once the window of too many starts has passed without another one; whether that is now."""
        if not self.safe_mode or now_s < self.safe_mode_until_s:
            return False
        self.safe_mode = False
        return True
