"""What a model can do: pass@k in the six settings, and likelihoods of multiple-choice answers."""
