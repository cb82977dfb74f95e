"""A round's examples and their embeddings: read, found again by content, kept on disk."""
