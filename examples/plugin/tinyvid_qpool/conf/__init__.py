"""YAML files of the plugin, one folder per configuration group."""
