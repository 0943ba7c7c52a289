"""Thin Azure Functions triggers over the engine.

The Functions worker asks for a module named ``function_app`` and takes this package for it, since a package goes before the root
file of the same name (facts/functions.md, Layout). So the one FunctionApp must be found here.
"""

from function_app.triggers import app

__all__ = ["app"]
