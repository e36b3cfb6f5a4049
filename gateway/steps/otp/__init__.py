"""otp: a one-time code from an authenticator app or from a mail."""

from gateway.steps.otp.config import OtpConfig
from gateway.steps.otp.step import Otp

__all__ = ["Otp", "OtpConfig"]
