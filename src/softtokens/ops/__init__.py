"""Numerics on tensors: random numbers, the vocabulary mixture, log-probabilities. Knows torch and nothing of RL."""
