"""Produce sequences (decode) and score them again with gradient (replay)."""
