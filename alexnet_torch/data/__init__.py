"""Turns folders of images into batches: decoding, the decoded cache, crops, PCA noise."""
