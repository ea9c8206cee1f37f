"""Generators and discriminators; nothing here knows of data, training or files."""
