"""Pure parsers of what sources deliver: bytes to changes."""
