"""What a run would cost: the stages and steps of the graph, counted before any model is loaded."""
