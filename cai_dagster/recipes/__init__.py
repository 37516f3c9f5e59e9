"""The paper as coroutines over a language model."""
