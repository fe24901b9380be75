"""What a model reaches on a data set."""
