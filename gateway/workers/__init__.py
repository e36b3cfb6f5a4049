"""`gateway run` as several processes: a supervisor that does nothing but supervise, workers that serve, and one process for the admin
listener. See docs/decisions/0026."""
