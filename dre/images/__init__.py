"""Images without a model: decoding, fills, blurs, segments, information, randomness."""
