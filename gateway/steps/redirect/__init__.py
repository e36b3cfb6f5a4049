"""redirect: a page of others, that gets a signed token and answers with one of its own."""

from gateway.steps.redirect.config import RedirectConfig
from gateway.steps.redirect.step import Redirect

__all__ = ["Redirect", "RedirectConfig"]
