"""Test sets: images with known classes, in any form, on which trained and imported networks are scored."""
