"""All progress, in Redis."""
