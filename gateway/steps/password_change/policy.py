"""Whether a new password will do. Every verdict says what to do better; none repeats the password.

zxcvbn takes seconds for hostile input that is long, keeps its dictionaries in globals, and holds the interpreter: so it sees the first
characters only, one password at a time, on a thread of its own.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from gateway.steps.password_change.config import PolicySpec

JUDGED = 40
"""Characters that zxcvbn sees. What makes a password weak shows in them; 40 well-mixed ones are beyond guessing."""
_SHORTEST_NAME = 3
_judge = ThreadPoolExecutor(max_workers=1, thread_name_prefix="zxcvbn")


@dataclass(frozen=True, slots=True)
class Unfit:
    """code and public text of a verdict; private says the same without the password."""

    code: str
    public: str
    private: str
    field: str = "new_password"


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def cheap(policy: PolicySpec, current: str, new: str, confirm: str, names: Sequence[str]) -> Unfit | None:
    """What can be told at once. names: what the user is called."""
    if new != confirm:
        return Unfit(
            "mismatch", "The two new passwords are not the same. Please type them again.", "new passwords differ", "confirm_password"
        )
    if len(new) < policy.min_length:
        public = f"The new password needs at least {policy.min_length} characters."
        return Unfit("too_short", public, "new password of the wrong length")
    if len(new) > policy.max_length:
        public = f"The new password may have at most {policy.max_length} characters."
        return Unfit("too_long", public, "new password of the wrong length")
    if _folded(new) == _folded(current):
        return Unfit("same", "The new password must be another one than the current.", "new password is the current one")
    if any(len(name) >= _SHORTEST_NAME and _folded(name) in _folded(new) for name in names):
        return Unfit("has_name", "The new password must not hold your user name.", "new password holds the user name")
    return None


async def strong(policy: PolicySpec, new: str, known: Sequence[str]) -> Unfit | None:
    """zxcvbn's verdict. known: words that an attacker would try first."""
    if policy.min_score == 0:
        return None
    score = await asyncio.get_running_loop().run_in_executor(_judge, _score, new, list(known))
    if score >= policy.min_score:
        return None
    public = "The new password is too easy to guess. Use more words, or words that do not belong together; avoid patterns, dates and names."
    return Unfit("too_weak", public, f"zxcvbn score {score} < {policy.min_score}")


def load() -> Any:
    """zxcvbn, with its word lists (12 MiB). Called where a step is made: it is missing at the start or never (see gateway/lean.py)."""
    return import_module("zxcvbn").zxcvbn


def _score(password: str, known: list[str]) -> int:
    return int(load()(password[:JUDGED], user_inputs=known)["score"])
