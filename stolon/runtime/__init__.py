"""The engine and its server."""
