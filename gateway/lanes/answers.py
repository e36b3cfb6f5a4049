"""What the lane needs from the pages, as a protocol: the web room implements it, gateway/app wires it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aiohttp import web

from gateway.flow.asked import Asked
from gateway.flow.outside import Sending
from gateway.flow.transaction import Transaction


class Answers(Protocol):
    """Each answers a page to a person and problem+json to a script, by what the request can show."""

    def refusal(
        self, asked: Asked, kind: str, *, status: int | None = None, retry_after: int | None = None, cookies: Sequence[bytes] = (),
        message: str = "", href: str | None = None, label: str | None = None, detail: str = "", error: str | None = None,
        about: Transaction | None = None, limit: int | None = None,
    ) -> web.Response:  # fmt: skip
        """A refusal or a dead end with a way on. kind: a key of the web room's texts. message: a rule's or step's public words.

        href, label: the way on. detail: words for a script. about: the transaction it is about. limit: the bound that was passed, in bytes.
        """

    def bare(self, status: int, kind: str, request_id: str) -> web.Response:
        """For a request whose head could not be read."""

    def step_up(
        self,
        asked: Asked,
        transaction: Transaction | None,
        state: str | None,
        steps: Sequence[str],
        *,
        max_age: float | None,
        cookies: Sequence[bytes] = (),
        cors: Sequence[str] = (),
    ) -> web.Response:
        """The 401 of design.md part 5 for whoever cannot be redirected."""

    def interaction_required(
        self, asked: Asked, transaction: Transaction | None, state: str | None, steps: Sequence[str], *, cors: Sequence[str] = ()
    ) -> web.Response:
        """What a token endpoint answers while steps are open. transaction, state: None where nobody is known for whom they could be run."""

    def oauth_error(
        self, asked: Asked, status: int, error: str, description: str, *, retry_after: int | None = None, cors: Sequence[str] = ()
    ) -> web.Response:
        """An error of a token endpoint (RFC 6749 §5.2)."""

    def see_other(self, location: str, cookies: Sequence[bytes] = ()) -> web.Response:
        """303 to a path on this origin."""

    def send(self, asked: Asked, sending: Sending, *, cookies: Sequence[bytes] = ()) -> web.Response:
        """The browser's way on to somebody else's URL: a form that sends itself, a 303, or JSON for a script."""

    def transaction_path(self, state: str) -> str:
        """`/.stepup/t/{state}`."""
