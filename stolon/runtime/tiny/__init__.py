"""The built-in tiny chat model: its weights and the scripts that made them."""

from pathlib import Path

MODEL_DIR: Path = Path(__file__).parent / "model"
