"""OAuth and OpenID providers as upstreams: what they are asked, what they answer, and what is remembered between the two."""
