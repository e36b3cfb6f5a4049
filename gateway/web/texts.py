"""What our pages say: what happened, and what to do now. Calm and concrete; nobody is blamed, nothing internal is named.

One entry a kind of page, so that another language is another table of the same keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "answer_missing",
    "answer_used",
    "already_sent",
    "approved",
    "authorize_again",
    "bad_beginning",
    "used_beginning",
    "bad_request",
    "bad_token",
    "cancelled",
    "declined",
    "denied",
    "expired",
    "failed",
    "forgotten",
    "internal",
    "logged_out",
    "loop",
    "no_subject",
    "not_yours",
    "onward",
    "replay_off",
    "script_done",
    "sending",
    "still_asked",
    "session_changed",
    "store_down",
    "subject_changed",
    "throttled",
    "too_large",
    "too_large_to_keep",
    "too_many_open",
    "unknown",
    "unknown_outcome",
    "upstream_busy",
    "upstream_down",
    "upstream_timeout",
    "wrong_host",
]


@dataclass(frozen=True, slots=True)
class Text:
    """status: HTTP status unless the caller knows better. tone: which sign the page carries.

    way, href: the way on when the caller names none; "" as href asks for the same address again.
    paragraphs may hold `{message}` (a rule's or a step's own words) and `{wait}` ("30 seconds").
    """

    status: int
    title: str
    paragraphs: tuple[str, ...]
    tone: Literal["done", "info", "wait", "stop"]
    way: str = "Go to the start page"
    href: str = "/"


TEXTS: Mapping[Kind, Text] = {
    "answer_missing": Text(
        400,
        "The answer did not come along",
        ("{message}", "Nothing was sent. Go back to the step and try once more."),
        "stop",
        "Go back to the step",
    ),
    "answer_used": Text(
        410,
        "This was answered already",
        ("You have been here with the same answer, and it counts once.", "Your request goes on where it stands."),
        "info",
        "Go on",
    ),
    "already_sent": Text(
        410,
        "This was already sent",
        ("Your request went through once and was not sent again.", "To do the same thing again, start it again in the application."),
        "done",
        "Continue to the application",
    ),
    "approved": Text(
        200,
        "Done",
        ("You have confirmed it. You can close this page now.", "Go back to the app that sent you here: it goes on by itself."),
        "done",
    ),
    "authorize_again": Text(
        200,
        "Your password has changed",
        ("You were signed out everywhere this browser was signed in.", "Sign in with your new password to go on."),
        "done",
        "Sign in",
    ),
    "bad_beginning": Text(
        400,
        "We could not take you on from there",
        (
            "What the page before this one sent along could not be confirmed, or it is too old. Nothing was sent.",
            "Go back to where you were signing in, and start again there.",
        ),
        "stop",
    ),
    "used_beginning": Text(
        410,
        "This link was used already",
        ("It counts once, in the browser that opened it first.", "Go back to where you were signing in, and start again there."),
        "info",
        "Start again",
    ),
    "bad_request": Text(
        400,
        "This link does not work",
        ("Something is missing from the address, or it was cut off.", "Go back to where you came from and try once more."),
        "stop",
    ),
    "bad_token": Text(
        400,
        "We could not confirm that step",
        (
            "The answer that came back did not fit the request it was meant for. Nothing was sent.",
            "Go back to the step and try once more.",
        ),
        "stop",
    ),
    "cancelled": Text(
        200,
        "Cancelled",
        ("Nothing was sent, and what you had entered for this request was thrown away.",),
        "done",
        "Go back",
    ),
    "declined": Text(
        200,
        "You did not accept",
        (
            "Nothing was sent, and your request was thrown away.",
            "What you wanted to open cannot be used without it. You will be asked again when you come back.",
        ),
        "info",
        "Go back",
    ),
    "denied": Text(
        403,
        "You can't open this",
        ("{message}", "If you think you should have access, ask for help and give the request number below."),
        "stop",
    ),
    "expired": Text(
        410,
        "This took too long and has expired",
        ("Your request was not sent. For your safety we keep it for a short time only.", "Start it again in the application."),
        "wait",
        "Start again",
    ),
    "failed": Text(
        403,
        "We could not confirm it was you",
        ("{message}", "Your request was not sent. You can start it again in the application."),
        "stop",
        "Start again",
    ),
    "forgotten": Text(
        200,
        "Forgotten",
        ("This browser is no longer remembered. You will be asked again where a confirmation is needed.",),
        "done",
        "Go to the start page",
    ),
    "internal": Text(
        500,
        "Something went wrong on our side",
        ("Your request was not completed, and the fault was recorded under the number below.", "Try again in a moment."),
        "stop",
        "Try again",
        "",
    ),
    "logged_out": Text(
        200,
        "You are signed out",
        ("Sign in again to go on.",),
        "info",
        "Sign in",
    ),
    "loop": Text(
        403,
        "We keep asking you the same thing",
        (
            "You were sent to the same step several times without getting any further, so we stopped here.",
            "Most often the browser does not keep cookies for this site, or an extension removes them. Allow them, then try again.",
        ),
        "wait",
        "Try again",
    ),
    "no_subject": Text(
        403,
        "You need to be signed in",
        (
            "This asks for a confirmation that is tied to your account, and right now nobody is signed in.",
            "Sign in to the application as usual, then try again.",
        ),
        "stop",
    ),
    "not_yours": Text(
        403,
        "This page belongs to another browser",
        (
            "A confirmation can only be finished in the browser that started it, so that no link sent to you can act in your name.",
            "Go back to that browser, or start again here. If this is the one, it keeps no cookies for this site: allow them first.",
        ),
        "stop",
        "Start again here",
    ),
    "onward": Text(
        200,
        "Confirmed",
        ("Your sign-in goes on now.", "If nothing happens by itself, use the button."),
        "done",
        "Continue",
    ),
    "replay_off": Text(
        200,
        "Confirmed – now repeat what you were doing",
        (
            "This kind of request is not kept while you confirm, so it was not sent yet.",
            "Go back to the application and do it once more: a form must be sent again. You won't be asked again.",
        ),
        "done",
        "Go back to the application",
    ),
    "script_done": Text(
        200,
        "Confirmed – you can go back now",
        (
            "Close this window and go back to the application: it goes on there by itself.",
            "If it does not, do there once more what you were doing. You won't be asked again.",
        ),
        "done",
        "Open the application here instead",
    ),
    "sending": Text(
        409,
        "Your request is being sent",
        ("It is on its way to the application right now and will not be sent a second time.", "Look in the application for the result."),
        "wait",
        "Look in the application",
    ),
    "still_asked": Text(
        409,
        "One thing is still open",
        (
            "You came back from the page, but what it was for is not done yet, so your request was not sent.",
            "Go to the page once more and finish it there.",
        ),
        "wait",
        "Go to the page again",
    ),
    "session_changed": Text(
        403,
        "You signed in or out in the meantime",
        ("The request was started in an earlier session, so it was not sent.", "Start it again in the application."),
        "stop",
        "Start again",
    ),
    "store_down": Text(
        503,
        "We can't check this right now",
        (
            "A part of this service is not answering, so nothing was let through and nothing was sent.",
            "It usually recovers by itself. Try again in {wait}.",
        ),
        "wait",
        "Try again",
        "",
    ),
    "subject_changed": Text(
        403,
        "Someone else is signed in now",
        ("The request was started by another user, so it was not sent.", "If it was yours, sign in as that user and start it again."),
        "stop",
        "Start again",
    ),
    "throttled": Text(
        429,
        "Too many tries – please wait",
        ("To keep your account safe, we pause after several tries.", "You can try again in {wait}."),
        "wait",
        "Try again",
        "",
    ),
    "too_large": Text(
        413,
        "This is too large",
        ("More was sent than is taken here. It was not passed on.", "Go back and send less, or a smaller file."),
        "stop",
        "Go back to the application",
    ),
    "too_large_to_keep": Text(
        413,
        "This is too large to hold for you",
        (
            "A confirmation is needed first, and what you sent is too large to be kept meanwhile. It was not sent.",
            "Confirm first, then send it again: you won't be asked a second time. A smaller file works too.",
        ),
        "stop",
        "Confirm now",
    ),
    "too_many_open": Text(
        429,
        "Too many requests are waiting for you",
        (
            "This browser has many unfinished confirmations open. The new one was not kept and not sent.",
            "Finish or cancel one in another tab, or wait a few minutes, then try again.",
        ),
        "wait",
        "Try again",
        "",
    ),
    "unknown": Text(
        404,
        "There is nothing here",
        ("This confirmation does not exist. It may have been finished long ago, or the link was cut off.",),
        "info",
    ),
    "unknown_outcome": Text(
        409,
        "We don't know whether this was sent",
        (
            "The connection broke while your request was being sent. It may have reached the application, or not.",
            "Look in the application before you try again, so that nothing happens twice.",
        ),
        "stop",
        "Look in the application",
    ),
    "upstream_busy": Text(
        503,
        "The application is not available",
        ("It is under too much load or being restarted. Your request was not sent.", "Try again in {wait}."),
        "wait",
        "Try again",
        "",
    ),
    "upstream_down": Text(
        502,
        "The application is not answering",
        (
            "We reached out to it, and it did not give a proper answer.",
            "If you were sending something, look whether it arrived before you send it again.",
        ),
        "stop",
        "Try again",
        "",
    ),
    "upstream_timeout": Text(
        504,
        "The application is taking too long",
        ("It did not answer in time.", "If you were sending something, look whether it arrived before you send it again."),
        "wait",
        "Try again",
        "",
    ),
    "wrong_host": Text(
        421,
        "This address is not served here",
        ("The name in your address bar leads to this server, but not to an application.", "Check the address for a typing mistake."),
        "stop",
        "Go to the right address",
    ),
}

TITLES: Mapping[str, str] = {
    "step_up_required": "Step-up required",
    "invalid_request": "Invalid request",
    "unsupported_media_type": "Unsupported media type",
    "not_found": "Not found",
    "method_not_allowed": "Method not allowed",
}


def wait_text(seconds: int) -> str:
    """How long to wait, in words: 1 -> "1 second", 90 -> "2 minutes"."""
    if seconds < 60:
        amount, unit = max(seconds, 1), "second"
    elif seconds < 3600:
        amount, unit = -(-seconds // 60), "minute"
    else:
        amount, unit = -(-seconds // 3600), "hour"
    return f"{amount} {unit}" if amount == 1 else f"{amount} {unit}s"
