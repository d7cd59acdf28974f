"""How much one key may ask for: a bucket that refills evenly. Pure: the time is an argument."""

from __future__ import annotations


class Bucket:
    """Holds at most a minute's worth, and refills by one each 60 / `per_minute` seconds.

    A need larger than the bucket passes when the bucket is full and leaves a debt, so that the average holds
    and no request is refused for ever.

    Attributes:
        per_minute: what it gives in a minute.
    """

    __slots__ = ("_at", "_left", "per_minute")

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._left = float(per_minute)
        self._at = now

    def left(self, now: float) -> float:
        """Say what is in it at `now`, seconds of a monotonic clock; negative while it owes."""
        grown = self._left + (now - self._at) * self.per_minute / 60
        self._left = min(float(self.per_minute), grown)
        self._at = now
        return self._left

    def wait_s(self, need: float, now: float) -> float:
        """Say in how many seconds `need` may be taken; 0 when now."""
        short = min(need, float(self.per_minute)) - self.left(now)
        return max(0.0, short * 60 / self.per_minute)

    def full_in_s(self, now: float) -> float:
        """Say in how many seconds it is full again if nobody takes."""
        return (self.per_minute - self.left(now)) * 60 / self.per_minute

    def take(self, need: float, now: float) -> None:
        """Take, whether there is enough or not."""
        self._left = self.left(now) - need

    def set_rate(self, per_minute: int, now: float) -> None:
        """Give another amount from now on; what was taken stays taken, in proportion."""
        share = self.left(now) / self.per_minute
        self.per_minute = per_minute
        self._left = share * per_minute
