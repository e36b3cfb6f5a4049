"""Paths in the settings start at the file that names them. From here on they are absolute, and nobody else has to know where that was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.spec.sections import GatewaySpec, TlsSpec, UpstreamTlsSpec


def absolute(spec: GatewaySpec, base: Path) -> dict[str, Any]:
    """The sections of `spec` that name files, with absolute paths: an update for `model_copy`. Store URLs are the stores' to resolve."""
    here = base.absolute()
    upstreams = {
        name: upstream
        if upstream.tls is None
        else upstream.model_copy(update={"tls": _joined(upstream.tls, here, "ca_file", "cert_file", "key_file")})
        for name, upstream in spec.upstreams.items()
    }
    return {
        "tls": spec.tls and _joined(spec.tls, here, "cert_file", "key_file"),
        "upstreams": upstreams,
        "secrets": spec.secrets.model_copy(update={"key_file": str(here / spec.secrets.key_file)}),
        "theme": spec.theme if spec.theme.logo is None else spec.theme.model_copy(update={"logo": str(here / spec.theme.logo)}),
    }


def _joined(tls: TlsSpec | UpstreamTlsSpec, here: Path, *keys: str) -> Any:
    return tls.model_copy(update={key: str(here / value) for key in keys if (value := getattr(tls, key)) is not None})
