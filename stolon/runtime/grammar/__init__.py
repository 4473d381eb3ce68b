"""Constraints compiled to token masks: what may come next, given what came before."""
