"""Command line, local stack and status view."""
