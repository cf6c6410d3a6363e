"""Documents in, fixed-length training rows out; every step is a function from a dataset to a dataset."""
