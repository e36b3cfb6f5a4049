"""Relative paths start at the file that names them, wherever the gateway was started."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.gateway import read


def test_every_file_of_the_settings_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    for name in ("ca.pem", "cert.pem", "key.pem", "logo.svg"):
        (home / name).write_text("<svg/>")
    (home / "gateway.yaml").write_text(
        "public_url: https://bank.example.com\n"
        "tls: {cert_file: cert.pem, key_file: key.pem}\n"
        "theme: {logo: logo.svg}\n"
        "secrets: {key_file: var/secret.key}\n"
        "upstreams: {bank: {url: 'https://127.0.0.1:1', tls: {ca_file: ca.pem}}}\n"
    )
    monkeypatch.chdir(elsewhere)
    spec = read(Path("../home/gateway.yaml")).spec
    assert spec.tls is not None
    assert Path(spec.tls.cert_file).resolve() == home / "cert.pem"
    assert Path(spec.tls.key_file).resolve() == home / "key.pem"
    assert Path(spec.secrets.key_file).resolve() == home / "var/secret.key"
    assert spec.theme.logo is not None
    assert Path(spec.theme.logo).resolve() == home / "logo.svg"
    tls = spec.upstreams["bank"].tls
    assert tls is not None
    assert tls.ca_file is not None
    assert Path(tls.ca_file).resolve() == home / "ca.pem"
    assert (tls.cert_file, tls.key_file) == (None, None)
