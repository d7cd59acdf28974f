"""All rivals by name."""

from __future__ import annotations

from bench.rivals import aibrix, dstack, dynamo, fixed, keda, knative, rayserve, skyserve
from bench.rivals.law import Rival

RIVALS: dict[str, Rival] = {
    module.RIVAL.name: module.RIVAL
    for module in (skyserve, dstack, knative, keda, rayserve, aibrix, dynamo, fixed)
}
