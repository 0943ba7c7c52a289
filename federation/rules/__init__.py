"""The pure core: what to do about two observations and a base."""
