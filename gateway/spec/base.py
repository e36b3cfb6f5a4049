"""The shape of a setting: strict, frozen, said in the words of gateway.yaml.

Every field has a description: the settings reference and the JSON Schema are generated from here.
`${VAR}` is replaced before these shapes see a value, so numbers may arrive as text; booleans may not
(YAML 1.2: only `true` and `false` are booleans).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema


class Spec(BaseModel):
    """Base of every section: unknown keys are mistakes, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, arbitrary_types_allowed=True)


RecordType = Literal["text", "number", "boolean", "time"]
"""What an entry of a record is in conditions, where it is not null."""


@dataclass(frozen=True, slots=True)
class TextMistake:
    """Something wrong in a text file that a setting names; line and column count from 1."""

    line: int
    column: int
    message: str


class StepSpec(Spec):
    """Base of every kind of step's settings."""

    acr: str | None = Field(
        None,
        pattern=r"^[!#-\[\]-~]{1,128}$",
        description="The authentication context that this step stands for, in tokens and challenges (RFC 9470); its name unless set.",
    )


T = TypeVar("T")

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SIZES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 1000, "MB": 1000_000, "GB": 1000_000_000}
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|kB|MB|GB)?")


def parse_duration(value: object) -> float:
    """`250ms 30s 5m 12h 7d` as seconds. Raises ValueError for anything else."""
    if isinstance(value, float):  # a default, already in seconds
        return value
    if isinstance(value, str) and (m := _DURATION.fullmatch(value)):
        return float(m[1]) * _UNITS[m[2]]
    raise ValueError("is not a duration; write a number with a unit: 250ms, 30s, 5m, 12h, 7d")


def format_duration(seconds: float) -> str:
    """The shortest way to write a duration, for pages and the reference: 300.0 -> "5m"."""
    for unit in ("d", "h", "m", "s"):
        if seconds >= _UNITS[unit] and (seconds / _UNITS[unit]).is_integer():
            return f"{int(seconds / _UNITS[unit])}{unit}"
    return f"{round(seconds * 1000)}ms"


def parse_size(value: object) -> int:
    """`64KiB 1MiB` or a number of bytes, as bytes. Raises ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and (m := _SIZE.fullmatch(value)):
        return int(m[1]) * _SIZES[m[2] or ""]
    raise ValueError("is not a size; write bytes or a number with a unit: 65536, 64KiB, 1MiB")


def _boolean(value: object) -> object:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise ValueError("is not a boolean; write true or false (YAML 1.2: yes, no, on and off are text)")


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("is not a number")  # noqa: TRY004 - pydantic makes mistakes of ValueError only
    return value


def _many(value: object) -> object:
    """A scalar stands for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def parse_address(value: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as a pair. Raises ValueError."""
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError("is not an address; write host:port, for example 127.0.0.1:8080 or [::1]:8080")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host, int(port)


def _address(value: str) -> str:
    parse_address(value)
    return value


_HOST = re.compile(r"[a-z0-9._\-]+|[0-9a-f:.]+(?:%25[a-z0-9._\-]+)?")


def parse_origin(value: str) -> str:
    """A web origin in its one spelling: scheme and host lower-case, default port left out (RFC 6454 §6.2)."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError("is not an origin; write scheme://host[:port] and nothing behind it")
    if not _HOST.fullmatch(parts.hostname):
        # What could end a directive of a policy, or match more than one host.
        raise ValueError(
            "is not an origin; a host is letters, digits, `.`, `-` and `_` (an international name in its xn-- form), or an IPv6 address"
        )
    try:
        port = parts.port
    except ValueError as error:
        raise ValueError(f"is not an origin: {error}") from None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}" if port in (None, default) else f"{parts.scheme}://{host}:{port}"


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not a URL; write http://host[:port][/path] or https://…")
    return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError("is not a network; write an address or CIDR range: 10.0.0.0/8, 192.0.2.7, fd00::/8") from None
    return value


def _absolute_path(value: str) -> str:
    if not re.fullmatch(r"/[A-Za-z0-9_~.\-/]*[A-Za-z0-9_~.\-]", value) or "//" in value or "/." in value.replace("/.stepup", "", 1):
        raise ValueError("is not a plain path; write /letters-digits/… without a trailing slash")
    return value


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)$", "examples": ["30s", "5m", "8h"]}),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema({"type": ["integer", "string"], "examples": ["64KiB", "1MiB"]}),
]
Bool = Annotated[bool, BeforeValidator(_boolean), WithJsonSchema({"type": "boolean"})]
Int = Annotated[int, BeforeValidator(_number)]
Address = Annotated[str, AfterValidator(_address)]
Origin = Annotated[str, AfterValidator(parse_origin)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Network = Annotated[str, AfterValidator(_network)]
PlainPath = Annotated[str, AfterValidator(_absolute_path)]
Many = Annotated[tuple[T, ...], BeforeValidator(_many)]

Json = Any
