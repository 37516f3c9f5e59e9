"""The paper as coroutines over a language model: critique and revision, pairs, best of n."""
