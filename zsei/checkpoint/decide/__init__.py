"""What may go at a checkpoint: chosen by importance, judged by the gate, filed with its reason."""
