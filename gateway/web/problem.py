"""What scripts get instead of a page: problem details (RFC 9457), and the 401 that says a step-up is required (RFC 9470)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.web.csp import common_headers
from gateway.web.page import Page, quoted
from gateway.web.texts import TEXTS, TITLES

TYPE = "tag:step-up-gateway,2026:"  # RFC 4151: names a kind of problem for good, and needs no server to do so


def problem(
    status: int,
    kind: str,
    detail: str,
    request_id: str,
    *,
    error: str | None = None,
    retry_after: int | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Page:
    """A refusal for a script. kind: a key of the texts (`expired`, `throttled`, …) or one of `TITLES`.

    error: an OAuth error code (RFC 6749) where one is due; `kind` unless given. retry_after: seconds. extra: further members.
    """
    title = TITLES.get(kind) or next((text.title for name, text in TEXTS.items() if name == kind), kind.replace("_", " ").capitalize())
    body = {"type": TYPE + kind, "title": title, "status": status, "detail": detail, "error": error or kind, "request_id": request_id}
    headers = () if retry_after is None else (("Retry-After", str(retry_after)),)
    if retry_after is not None:
        body["retry_after"] = retry_after
    return _answer(status, {**body, **(extra or {})}, headers)


def step_up_required(
    *,
    request_id: str,
    description: str,
    steps: Sequence[str],
    acr_values: Sequence[str] = (),
    max_age: int | None = None,
    state: str | None = None,
    step_up_url: str | None = None,
    continue_url: str | None = None,
    expires_in: int | None = None,
) -> Page:
    """The 401 of design.md part 5. max_age: seconds, None for the life of the pass, 0 where a step is asked for this very request.

    state, step_up_url, continue_url, expires_in: of the transaction that was opened; all None where none was (HEAD, subresources,
    WebSocket).
    """
    challenge = [f'Bearer error="insufficient_user_authentication", error_description={quoted(description)}']
    if acr_values:
        challenge.append(f"acr_values={quoted(' '.join(acr_values))}")
    if max_age is not None:
        challenge.append(f"max_age={max_age}")
    body: dict[str, Any] = {
        "type": TYPE + "step_up_required",
        "title": TITLES["step_up_required"],
        "status": 401,
        "error": "interaction_required",
        "error_description": description,
        "steps": list(steps),
        "request_id": request_id,
    }
    opened = {"max_age": max_age, "state": state, "step_up_url": step_up_url, "continue_url": continue_url, "expires_in": expires_in}
    body.update({key: value for key, value in opened.items() if value is not None})
    return _answer(401, body, (("WWW-Authenticate", ", ".join(challenge)),))


def _answer(status: int, body: Mapping[str, Any], headers: tuple[tuple[str, str], ...]) -> Page:
    return json_page(status, body, content_type="application/problem+json", headers=headers)


def json_page(status: int, body: Any, *, content_type: str = "application/json", headers: tuple[tuple[str, str], ...] = ()) -> Page:
    """Any JSON of ours: never cached, never sniffed."""
    return Page(status, (("Content-Type", content_type), *common_headers(), *headers), json.dumps(body, ensure_ascii=False).encode("utf-8"))
