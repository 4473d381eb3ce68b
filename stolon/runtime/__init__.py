"""The engine and its server."""

# Fails where this folder is imported through the link in the root, which would load a second copy of everything.
from .. import __version__ as __version__
