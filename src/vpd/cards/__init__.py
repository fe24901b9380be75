"""What a model says of itself to strangers, and its way to the hub."""
