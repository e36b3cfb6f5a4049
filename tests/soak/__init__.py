"""Large, slow and many things through a gateway in a process of its own, for `make soak`. Not part of `make test`."""
