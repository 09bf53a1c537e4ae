"""From files to samples to features."""
