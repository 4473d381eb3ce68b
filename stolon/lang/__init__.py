"""The language: what a program says, and how it is carried out. Standard library only, and pydantic for some types."""

# Fails where this folder is imported through the link in the root, which would load a second copy of everything.
from .. import __version__ as __version__
