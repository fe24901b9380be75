"""The three models: assembly, loss and prediction."""
