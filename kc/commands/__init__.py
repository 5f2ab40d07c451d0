"""The commands of `kc`: NAME_config.py is the light signature and `main`, NAME.py does the work."""
