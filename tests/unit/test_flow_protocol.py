"""What kind of request it is: by any reading of the path, in Auth0's words."""

from __future__ import annotations

import pytest

from gateway.flow.protocol import endpoint_of, protocol_of
from gateway.spec.oauth import OAuthSpec
from tests.support.policy import form_post, request

OAUTH = OAuthSpec(authorize="/authorize", token="/oauth/token", resource_owner="/oauth/ro")
URN = "urn:ietf:params:oauth:grant-type:"


@pytest.mark.parametrize(
    ("grant", "protocol"),
    [
        ("password", "oauth2-password"),
        ("http://auth0.com/oauth/grant-type/password-realm", "oauth2-password"),
        ("refresh_token", "oauth2-refresh-token"),
        ("authorization_code", "oauth2-authorization-code"),
        ("client_credentials", "oauth2-client-credentials"),
        (URN + "device_code", "oauth2-device-code"),
        (URN + "token-exchange", "oauth2-token-exchange"),
        (URN + "jwt-bearer", "oauth2-resource-owner-jwt-bearer"),
        ("http://auth0.com/oauth/grant-type/mfa-otp", "oauth2-extension-grant"),
        ("Password", "oauth2-extension-grant"),
        (["password", "password"], "oauth2-extension-grant"),
        (None, "oauth2-extension-grant"),
    ],
)
def test_the_grant_type_tells_at_the_token_endpoint(grant: object, protocol: str) -> None:
    assert protocol_of(form_post("/oauth/token"), OAUTH, {"grant_type": grant}) == protocol


@pytest.mark.parametrize(
    ("target", "protocol"),
    [
        ("/authorize?response_type=code", "oidc-basic-profile"),
        ("/authorize?response_type=id_token%20token", "oidc-implicit-profile"),
        ("/authorize?response_type=code+id_token", "oidc-hybrid-profile"),
        ("/authorize?request_uri=urn:x", "oidc-basic-profile"),
        ("/oauth/ro", "oauth2-resource-owner"),
        ("/account", "http"),
        ("/", "http"),
    ],
)
def test_the_address_tells_elsewhere(target: str, protocol: str) -> None:
    assert protocol_of(request(target), OAUTH, None) == protocol


def test_without_endpoints_everything_is_http() -> None:
    assert protocol_of(form_post("/oauth/token"), None, {"grant_type": "password"}) == "http"
    assert protocol_of(form_post("/oauth/token"), OAuthSpec(authorize="/authorize"), {"grant_type": "password"}) == "http"


def test_a_posted_authorization_request_is_read_too() -> None:
    assert protocol_of(form_post("/authorize"), OAUTH, {"response_type": "token"}) == "oidc-implicit-profile"


@pytest.mark.parametrize(
    "target", ["/oauth/token", "/oauth/token/", "/OAUTH/Token", "/oauth/%74oken", "/x/../oauth//token", "/oauth/token;v=1"]
)
def test_whatever_a_server_could_take_for_the_token_endpoint_is_one(target: str) -> None:
    assert endpoint_of(form_post(target), OAUTH) == "token"
