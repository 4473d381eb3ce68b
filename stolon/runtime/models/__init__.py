"""Language models, and encoders that embed or classify texts: what a checkpoint describes, and how to compute it."""
