"""From manifests to batches of noisy speech."""
