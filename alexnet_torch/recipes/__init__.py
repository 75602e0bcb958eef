"""Every named way to train, and the options that override it."""
