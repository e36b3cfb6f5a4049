"""Sends whoever has a password older than 90 days to the page that changes it. A rule names it:

    python: config/rules/password_age.py:must_change_password

The page was written for Auth0: it gets `state`, and a token by which it knows whose password it may change. Afterwards it sends the user
to `authorize_again`, to log in with the new one. How old a password is says the claim `password_changed_at` (seconds since 1970) of an
identity source; without it, it is too old.
"""

import os
import time

import jwt

from gateway.functions import Unauthorized

LONGEST = 90 * 86_400


def must_change_password(user, context):
    now = int(time.time())
    if not user.user_id or now - float(user.get("password_changed_at") or 0) < LONGEST:
        return
    if context.protocol == "redirect-callback":
        raise Unauthorized("Please change your password, then log in with the new one.")
    claims = {
        "sub": user.user_id,
        "iss": "password-age",
        "aud": "password-page",
        "jti": user.jti,
        "iat": now,
        "exp": now + 300,
        "authorize_again": "https://bank.example.com/login",
    }
    token = jwt.encode(claims, os.environ["PASSWORD_PAGE_SECRET"], algorithm="HS256")
    context.redirect = {"url": "https://passwords.example.com/change?session_token=" + token}
