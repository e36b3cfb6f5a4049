"""Technical faults. Refusals are values (see policy.decision, flow.step), never exceptions.

An exception from here means that something did not work: a store is away, an upstream broke off, a target
cannot be read. Foreign exceptions are translated into these once, at the edge where they arise.
"""

from __future__ import annotations


class GatewayError(Exception):
    """Base of every exception that the gateway raises on purpose."""


class BadTarget(GatewayError):
    """A request target that has no safe set of readings; answered with 400."""


class StoreUnavailable(GatewayError):
    """A store did not answer within its deadline, or answered with a fault. Answered with 503."""


class Conflict(GatewayError):
    """A conditional write lost against a newer version. The caller re-reads and decides again."""


class SealBroken(GatewayError):
    """A sealed value cannot be opened: another key, another place, or tampered bytes."""


class TokenInvalid(GatewayError):
    """A token does not verify. `str(error)` is for the log, never for a page."""


class MailFailed(GatewayError):
    """The mail server refused a message or could not be reached."""


class UpstreamFault(GatewayError):
    """Base of what can go wrong between the gateway and an upstream."""


class UpstreamUnreachable(UpstreamFault):
    """No connection could be made; not one byte of the request was sent. 502."""


class UpstreamBusy(UpstreamUnreachable):
    """Every connection that may be open is in use, and none came free in time. 503."""


class UpstreamBroke(UpstreamFault):
    """The connection ended, or broke HTTP, after bytes of the request were sent. 502."""


class UpstreamTimeout(UpstreamFault):
    """No answer within the bound. 504."""


class ClientGone(GatewayError):
    """The client closed its connection, or sent a body that broke off."""


class BodyTooLarge(GatewayError):
    """A request body is larger than the place that must hold it. 413."""


class StoreTooNew(StoreUnavailable):
    """A store was written by a newer version of the gateway. Waiting does not help: the start stops with this text."""


class StartRefused(GatewayError):
    """The gateway cannot start with these settings on this machine. `str(error)` says what to do."""


class KeyMismatch(GatewayError):
    """The state store belongs to a key that is not in our key file. `str(error)` says what to do; the start stops with it."""


class KeyFileFault(GatewayError):
    """The key file cannot be read or written, or others can read it. `str(error)` says what to do."""
