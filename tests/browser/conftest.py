"""Fixtures of all browser tests: the browser, a page, the demo and its visitor."""

from tests.browser.demo import demo, visitor
from tests.support.chromium import chromium, page

__all__ = ["chromium", "demo", "page", "visitor"]
