"""Models of language behind the routes that OpenAI's clients know: completions and embeddings."""
