"""How time and memory are measured, on a CPU or a GPU: the clock that all figures share."""
