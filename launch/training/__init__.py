"""A training run from its beginning to its job. Imports every other package of launch."""
