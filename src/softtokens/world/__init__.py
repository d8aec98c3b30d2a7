"""The processes of a run: how they start, and how they work together."""
