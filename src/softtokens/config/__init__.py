"""Configuration: all settings, their help texts and allowed values. Imports no torch, so help is instant."""
