"""The paper's clinical branch made fast: a spatializer whose operators and memory use are its own."""
