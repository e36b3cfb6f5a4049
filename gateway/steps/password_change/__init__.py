"""password_change: a new password, set at the application as the user."""

from gateway.steps.password_change.config import PasswordChangeConfig
from gateway.steps.password_change.step import PasswordChange

__all__ = ["PasswordChange", "PasswordChangeConfig"]
