"""The failures of this program, named by what the caller should do next.

    AutoscalerError
    ├── ConfigError           refuse, keep the old one: file, key, hint      → the operator
    ├── CloudUnavailable      nothing happened                               → repeat next pass
    │   ├── AuthFailed        the cloud refuses our credential               → no creates, page, keep serving
    │   └── HeldBack          we sent nothing, so as not to call too often   → the same call may be made later
    ├── OutcomeUnknown        sent, not answered                             → look for the name; retry under a new one
    ├── OutOfStock            this offer, now                                → back off the offer, place again
    │   └── QuotaExceeded     this GPU family, in every location             → back off the family, tell the operator
    ├── Rejected              this request, ever                             → stop, tell the operator
    │   ├── NotFound          no such thing                                  → absent, after the settling time
    │   ├── Forbidden         our credential may not do this                 → page; deletes are asked for again
    │   ├── PaymentRequired   the account has no valid card                  → stop launches, keep nodes, page
    │   └── EndpointMissing   the cloud has no such endpoint                 → take the documented fallback
    ├── SchemaError           an answer that we do not understand            → act on nothing it says
    ├── SourceUnavailable     no figure from this source                     → a gap in Signals
    ├── NodeUnreachable       SSH or HTTP gave no answer                     → the node's deadline
    │   └── ReachUnavailable  the way to it is ours, and is not there        → nothing is said of the node; tell
    ├── HostKeyMismatch       another host key than the pinned one           → failed, at once
    ├── VerificationFailed    the node is not what it should be              → failed, at once
    ├── BalancerUnavailable   not known to be registered                     → not ready yet; repeat
    ├── StoreUnavailable      nothing was recorded                           → no effects this pass
    ├── LeaseLost             another daemon has the model                   → stop the model
    ├── LimitReached          a spend or count limit forbids this            → hold, say which
    └── InvariantBroken       a bug                                          → stop that model's effects, keep serving

Adapters translate at the border (`raise OutOfStock(...) from exc`); nobody else sees an aiohttp, asyncssh or sqlite3
exception. Messages name the thing, the figure and the next step.
"""

from __future__ import annotations


class AutoscalerError(Exception):
    """The root of every failure that this program raises on purpose."""


class ConfigError(AutoscalerError):
    """A file or an argument is wrong. The message has file, key, what was found and what to do."""


class CloudUnavailable(AutoscalerError):
    """The cloud gave no usable answer, and nothing happened. Repeat on the next pass.

    Attributes:
        retry_after_s: seconds the cloud asked us to wait, or None.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class AuthFailed(CloudUnavailable):
    """The cloud refuses our credential. Nothing can be created or deleted until it is renewed."""


class HeldBack(CloudUnavailable):
    """We provably did not send it, so as not to call too often. Repeating at once would only queue again."""


class OutcomeUnknown(AutoscalerError):
    """A call with an effect was sent and not answered. Look for what it may have made."""


class OutOfStock(AutoscalerError):
    """This offer cannot be rented now. Back it off and place again."""


class QuotaExceeded(OutOfStock):
    """The account's quota for this GPU family is used up, in every location."""


class Rejected(AutoscalerError):
    """The cloud will never accept this request. The policy or the config is wrong."""


class NotFound(Rejected):
    """The cloud knows no such thing (yet, or any more)."""


class Forbidden(Rejected):
    """The credential is taken, and may not do this. What must be done, a delete, is asked for again and again."""


class PaymentRequired(Rejected):
    """The account has no valid means of payment."""


class EndpointMissing(Rejected):
    """The cloud has no such endpoint: an inference of ours about its API was wrong."""


class SchemaError(AutoscalerError):
    """An answer lacks a field, or has one of the wrong type: endpoint and field are named."""


class SourceUnavailable(AutoscalerError):
    """A source of signals gave no figure. It becomes a gap in Signals, never a zero."""


class NodeUnreachable(AutoscalerError):
    """A node did not answer in time."""


class ReachUnavailable(NodeUnreachable):
    """What leads to nodes stands on this host and does not answer: nothing is known of any node by it."""


class HostKeyMismatch(AutoscalerError):
    """A host showed another key than the one pinned for this node. Never retried unpinned."""


class VerificationFailed(AutoscalerError):
    """A node is up but is not what the offer and the policy say."""


class BalancerUnavailable(AutoscalerError):
    """A balancer did not answer, or did not do what it answered."""


class StoreUnavailable(AutoscalerError):
    """The store could not commit. No effect may follow."""


class LeaseLost(AutoscalerError):
    """Another daemon holds the model's lease. Stop acting on the model."""


class LimitReached(AutoscalerError):
    """A spend or count limit forbids the intent. Nothing was recorded."""


class InvariantBroken(AutoscalerError):
    """Something that cannot be, is: a bug. Stop the model's effects and keep serving."""
