"""Training: arguments, streams, collators, the self-training step and the Trainer."""
