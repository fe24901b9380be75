"""Training: settings, loop, optimisers, schedules, checkpoints."""
