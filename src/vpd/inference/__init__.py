"""One picture through a model: how it is resized, cut, planned within memory, run."""
