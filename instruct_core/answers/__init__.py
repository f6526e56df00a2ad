"""From a question to its answer: prompts, sampling, generation, batches. Imports model and below."""
