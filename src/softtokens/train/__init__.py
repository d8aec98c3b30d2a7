"""Reinforcement learning of thoughts: advantages, the two-term loss, the loop, checkpoints."""
