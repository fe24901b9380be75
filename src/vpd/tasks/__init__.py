"""A task is one file: its model, loss, prediction, measuring and training settings; `table` lists those of the package."""
