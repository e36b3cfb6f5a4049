"""The commands. See gateway/lean.py for what is left out of their memory."""

from gateway.lean import trim

trim()  # before any command is imported
