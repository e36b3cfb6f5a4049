"""A legacy application to try the gateway on; it knows nothing of it."""
