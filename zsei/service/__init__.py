"""Analysis of checkpoints over HTTP: requests in, decisions out."""
