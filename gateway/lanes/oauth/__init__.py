"""OAuth and OpenID providers as upstreams: it is the answer that is gated. While a rule on the authorize path is unmet, no answer of the
provider with a code or a token leaves, on whatever path it comes.

Whose answer it is: an answer to the authorize request itself belongs to that request. One that comes from elsewhere (the login's, say)
belongs to a request that the browser made before, and which one that was is the browser's word. There all rules of the authorize path count
that could count for any request; where that asks for more than the remembered request would, the grant is thrown away and the provider is
asked once more, so that its answer comes at the authorize path itself.

requests: what is asked. watch: what an answer holds. verdicts: what becomes of one that holds a response.
"""

from gateway.lanes.oauth.requests import OAuthRequests
from gateway.lanes.oauth.verdicts import Verdicts
from gateway.lanes.oauth.watch import AnswerWatcher

__all__ = ["AnswerWatcher", "OAuthRequests", "Verdicts"]
