"""The engine: what the two sides hold, what to do about it, and doing it."""
