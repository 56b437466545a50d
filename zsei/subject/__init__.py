"""The subject of an analysis: a model, its data, its objective, its program, its anatomy."""
