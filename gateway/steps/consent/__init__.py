"""consent: a document that must be accepted, each version of it once."""

from gateway.steps.consent.config import ConsentConfig
from gateway.steps.consent.step import Consent

__all__ = ["Consent", "ConsentConfig"]
