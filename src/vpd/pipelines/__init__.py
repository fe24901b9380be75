"""Models as pipelines that answer like those of transformers."""
