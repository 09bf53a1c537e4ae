"""Models, modules, configs and optimization, for any domain."""
