"""The YAML tree, installed as ``tinyvid.conf``. One folder per configuration group."""
