"""How well a model retrieves: embeddings, ranks, recall with its uncertainty, and two models compared."""
