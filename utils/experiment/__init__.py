"""What `utils.exp_manager` sets up: folder, loggers, callbacks, checks before the first step."""
