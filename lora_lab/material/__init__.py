"""What the course learns from: numbers, texts and small models with their weights, and how those weights were made."""

from .data import create_planted_task, create_toy_dataset, digits
from .models import DigitClassifier, TinyGPT, shipped_adapter, windows

__all__ = [
    "DigitClassifier",
    "TinyGPT",
    "create_planted_task",
    "create_toy_dataset",
    "digits",
    "shipped_adapter",
    "windows",
]
