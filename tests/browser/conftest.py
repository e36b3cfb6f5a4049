"""Fixtures of all browser tests: the browser, a page, the demo and its visitor, and somebody before a single-page application."""

from tests.browser.demo import demo, visitor
from tests.browser.till import till
from tests.support.chromium import chromium, page

__all__ = ["chromium", "demo", "page", "till", "visitor"]
