"""Coverage-guided fuzzing, for `make fuzz`. Not part of `make test`."""
