"""form: a few details that a user gives once."""

from gateway.steps.form.config import FormConfig
from gateway.steps.form.step import Form

__all__ = ["Form", "FormConfig"]
