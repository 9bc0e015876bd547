"""The paper's clinical branch made fast: a spatializer whose operators, norms and memory use are its own."""
