"""The file that the Functions host looks for; without it no function is found, and no error tells (facts/functions.md, Layout).

Its code never runs: the package ``function_app`` beside it wins the import.
"""

from function_app.triggers import app

__all__ = ["app"]
