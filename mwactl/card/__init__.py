"""The model card: a README that people and the Hugging Face Hub read, from the registry alone. Knows no torch."""

from mwactl.card.card import ModelCard, model_card
from mwactl.card.gaps import Gap

__all__ = ["Gap", "ModelCard", "model_card"]
