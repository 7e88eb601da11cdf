"""Training: arguments, batches, collators, the self-training step and the Trainer."""
