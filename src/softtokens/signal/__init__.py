"""How much of a batch's gradient is signal."""
