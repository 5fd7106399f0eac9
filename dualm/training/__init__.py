"""Training: the DeepSpeed engine, optimizers, schedules, checkpoints and the loop."""
