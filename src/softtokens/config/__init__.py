"""What can be set, what it means, and what is allowed. Nothing here imports torch, so that help is instant."""
