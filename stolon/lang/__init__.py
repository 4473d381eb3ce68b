"""The language: what a program says, and how it is carried out. Standard library only."""
