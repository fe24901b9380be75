"""From feature maps to the outputs of a task."""
