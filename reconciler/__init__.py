"""Compare both listings with the base and mark what differs."""
