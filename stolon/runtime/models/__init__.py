"""Decoder-only language models: what a checkpoint describes, and how to compute it."""
