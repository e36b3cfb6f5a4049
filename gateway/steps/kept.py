"""Where steps keep what a user said: under the very id that the source named. Spellings of one name may be two people; a question too many
is better than the answers of somebody else."""

from __future__ import annotations

import base64
import hashlib

from gateway.steps.forms import raw
from gateway.wire.subject import Subject


def owner(subject: Subject) -> str:
    """As the records call a subject. An id that is no Unicode has its hash instead."""
    try:
        subject.id.encode()
    except UnicodeEncodeError:
        return "sha256:" + hashlib.sha256(raw(subject.id)).hexdigest()
    return subject.id


def name(subject: Subject, step: str) -> str:
    """Of a step's record; one id from two sources is two people. No name of a step holds a slash."""
    return f"{subject.source}/{step}"


def edition(*parts: str) -> str:
    """A short name for what is asked: 48 bits, base64url. It stands in every pass."""
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()
    return base64.urlsafe_b64encode(digest[:6]).decode("ascii")
