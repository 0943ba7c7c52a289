"""Listeners that turn what the services announce into marks."""
