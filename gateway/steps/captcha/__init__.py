"""captcha: proof of work in the browser, or a question in plain text."""

from gateway.steps.captcha.step import Captcha, CaptchaConfig

__all__ = ["Captcha", "CaptchaConfig"]
