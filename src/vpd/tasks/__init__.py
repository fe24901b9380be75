"""A task is one file: model, loss, prediction, measuring, training settings; `table` lists those of the package."""
