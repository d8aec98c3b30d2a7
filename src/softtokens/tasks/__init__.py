"""Where problems and multiple-choice questions come from: registered tasks, local files, the Hugging Face hub."""

from softtokens.tasks.choices import load_choice_items
from softtokens.tasks.registry import load_problems

__all__ = ["load_choice_items", "load_problems"]
