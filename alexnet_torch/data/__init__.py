"""Turns folders of images into batches: decoding, the prepared folder, crops, colour noise."""
