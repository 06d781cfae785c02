"""The files of a run's folder."""

LOG_FILE = "log.jsonl"
RECIPE_FILE = "recipe.yaml"
CHECKPOINT_FILE = "checkpoint.safetensors"
LOCK_FILE = "lock"
CURVES_FILE = "curves.png"
