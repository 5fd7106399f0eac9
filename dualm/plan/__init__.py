"""The plan of training: which window stands where, which objective it gets, the batches of a step."""
