"""VPTQ: weights as indices into codebooks of vectors. `quantize` has the method and its source."""
