"""What the file of a rule function imports: `from gateway.functions import Unauthorized`, and the types of its two arguments."""

from gateway.flow.functions import Context, Unauthorized, User

__all__ = ["Context", "Unauthorized", "User"]
