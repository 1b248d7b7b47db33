"""The fabric and its peers, each with the same two ends: something that sends pictures, something that takes them."""
