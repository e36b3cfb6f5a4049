"""What a listener needs from the system, and why it may not get it: said in words of the settings, never of a library."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import StartRefused
from gateway.spec.sections import TlsSpec


def tls_context(spec: TlsSpec) -> ssl.SSLContext:
    """For the public listener. Raises StartRefused."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load(context, spec)
    return context


def renew_certificate(context: ssl.SSLContext, spec: TlsSpec) -> None:
    """Read the files again: connections made from now on get the new certificate. Raises StartRefused, and changes nothing then."""
    tls_context(spec)  # a pair that does not fit must not get into the context that is in use
    _load(context, spec)


def _load(context: ssl.SSLContext, spec: TlsSpec) -> None:
    try:
        # An encrypted key is refused: without a password given here, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(spec.cert_file, spec.key_file, password=lambda: b"")
    except OSError as error:
        raise StartRefused(f"tls: {spec.cert_file} and {spec.key_file} cannot be used: {reason(error)}") from error


@contextmanager
def listening(key: str, host: str, port: int) -> Iterator[None]:
    """Around the start of a listener. Raises StartRefused for OSError; key: where the settings name the address."""
    try:
        yield
    except OSError as error:
        raise StartRefused(f"{key}: cannot listen on {host}:{port}: {reason(error)}") from error


def reason(error: OSError) -> str:
    """The system's word for it: asyncio wraps that in words of its own."""
    if isinstance(error, socket.gaierror | ssl.SSLError) or error.errno is None:
        return str(error.strerror or error)
    return os.strerror(error.errno)
