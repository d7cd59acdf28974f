"""Which offers may be rented for a model now, and in words why each other one may not."""

from __future__ import annotations

from datetime import datetime

from autoscaler.decide.capacity import Capacity, excluded
from autoscaler.domain.offer import Market, Offer
from autoscaler.policy import Policy

_OUT_OF_STOCK, _BACKED_OFF = "out of stock", "backed off until"


def why_never(policy: Policy, offer: Offer, capacity: Capacity) -> str | None:
    """Why an offer cannot serve this model whatever the stock, None when it can."""
    if offer.unrentable:
        return offer.unrentable
    forbidden = excluded(policy, offer)
    if forbidden is not None:
        return forbidden
    if offer.price_per_hour is None:
        return "no price: a type without a price is never rented (add it to the price list)"
    if not capacity.fits:
        return capacity.why_not
    if offer.image is None:
        return "no image that fits it in this location"
    return None


def why_not_now(
    policy: Policy, offer: Offer, capacity: Capacity, market: Market, now: datetime
) -> str | None:
    """Why an offer may not be rented at this instant, None when it may."""
    never = why_never(policy, offer, capacity)
    if never is not None:
        return never
    left_alone = market.backed_off(offer.key, now)
    if left_alone is not None:
        return f"{_BACKED_OFF} {left_alone.until:%H:%M:%S}: {left_alone.reason}"
    if not offer.in_stock:
        return _OUT_OF_STOCK
    return None


def is_passing(reason: str) -> bool:
    """Whether a reason of `why_not_now` is one that time cures."""
    return reason == _OUT_OF_STOCK or reason.startswith(_BACKED_OFF)
