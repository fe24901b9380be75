"""Words to text embeddings."""
